"""The picture of an interaction graph: who interacts with whom, how strongly, and with which sign.

Pairs of variables are lines, triples are shaded areas around three of them. Width and shade follow the size of the vertex k! A^(k),
relative to the largest one drawn of its order, and colour its sign: blue raises ln p where the variables grow together, red lowers it.
Places are in units in which the picture spans −1 … 1; what has a size in points is fitted to the Axes as it is when it is filled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import factorial
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .action import Action
from .arrays import as_count, as_points
from .errors import InputError
from .tensors import SymmetricTensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RAISES, _LOWERS, _INK, _PALE = "#2166ac", "#b2182b", "#1d2733", "#5b6773"
_ROUNDING = 1e-12  # vertices below this part of the largest are zero but for rounding
_LETTER = 0.6  # width of a letter in units of its size
_LEGIBLE = 5.5  # points
_MOST_NODES, _MOST_LETTERS = 400, 18
_MOST_UPRIGHT = 16  # labels outside a ring before they turn


class Interactions(NamedTuple):
    """The strongest vertices of one order between different variables, weakest first."""

    indices: np.ndarray  # (n_drawn, order)
    values: np.ndarray  # (n_drawn,)
    total: int  # how many there are

    @property
    def sizes(self) -> np.ndarray:
        """|value| in units of the largest."""
        return np.abs(self.values) / np.abs(self.values).max(initial=1e-300)


class Canvas(NamedTuple):
    """Where things stand and how large they are."""

    places: np.ndarray  # (n_dim, 2), within −1 … 1
    spacing: float  # of neighbours
    radius: float  # of a node
    points: float  # per unit
    font: float  # of labels, in points
    outside: bool  # labels beside their nodes, as they do not fit in
    ring: bool  # nodes on a circle


def interaction_graph(ax: Axes, action: Action, n_pairs: int | None = None, n_triples: int = 6, positions=None) -> Axes:
    """The strongest interactions between different variables: pairs as edges, triples as shaded triangles.

    Width and shade follow the size of the vertex k! A^(k), colour its sign: blue raises ln p when the variables grow together, red
    lowers it. The key says so, and what is not drawn. Legible up to about 64 variables on a slide.

    Parameters
    ----------
    ax : matplotlib Axes
        Of the size in which it will be shown: labels are fitted to it.
    action : Action
        In comparable units: pull a learned one back to standardized variables first.
    n_pairs, n_triples : int
        How many of the strongest to draw; by default three pairs per variable, at least 20.
    positions : array_like, shape (n_dim, 2), or mapping of int to (x, y), optional
        Where the variables stand; the layouts of networkx for ``action.to_graph()`` are such mappings. By default variables called by
        whole coordinates ``i,j``, as those of lattices, stand in row i and column j, and a pair on opposite borders leaves the picture
        on both sides, as on a torus; all others stand on a circle.

    Raises
    ------
    InputError
        More than 400 variables, or positions that do not place every one of them.
    """
    if action.n_dim > _MOST_NODES:
        raise InputError(f"action must have up to {_MOST_NODES} variables to be drawn, got {action.n_dim}; draw a part.")
    n_pairs = max(20, 3 * action.n_dim) if n_pairs is None else as_count(n_pairs, "n_pairs", minimum=0)
    pairs, triples = _strongest(action, 2, n_pairs), _strongest(action, 3, as_count(n_triples, "n_triples", minimum=0))
    labels = [_elided(name) for name in action.names or map(str, range(action.n_dim))]
    grid = _grid(labels) if positions is None else None
    key = _Key.of(ax, pairs, triples, _others(action))
    canvas = _canvas(ax, _places(action.n_dim, grid, positions), labels, grid is not None, key.height)
    _draw_triples(ax, canvas, triples)
    _draw_pairs(ax, canvas, pairs, grid)
    _draw_nodes(ax, canvas, labels)
    key.draw(ax, _widest(canvas))
    return ax


def _strongest(action: Action, order: int, count: int) -> Interactions:
    if order not in action.couplings:
        return Interactions(np.empty((0, order), dtype=int), np.empty(0), 0)
    T = action.couplings[order]
    there = _present(T, _all_different(T))
    drawn = there[np.argsort(np.abs(T.values[there]), kind="stable")][max(0, len(there) - count):]
    return Interactions(T.indices[drawn], factorial(order) * T.values[drawn], len(there))


def _others(action: Action) -> int:
    """How many couplings of order 3 and above join two variables, or four and more: they have no place here."""
    return sum(len(_present(T, (T.indices[:, 0] < T.indices[:, -1]) & ~((k == 3) & _all_different(T))))
               for k, T in action.couplings.items() if k >= 3)


def _all_different(T: SymmetricTensor) -> np.ndarray:
    return (np.diff(T.indices, axis=1) > 0).all(axis=1)


def _present(T: SymmetricTensor, wanted: np.ndarray) -> np.ndarray:
    """Positions of the wanted entries that are more than rounding."""
    size = np.where(wanted, np.abs(T.values), 0.0)
    return np.flatnonzero(size > _ROUNDING * size.max(initial=0.0))


def _grid(labels: list[str]) -> np.ndarray | None:
    """Whole coordinates (column, row) of variables called ``row,column``, None if one is not."""
    found = [re.fullmatch(r"(\d{1,4}),(\d{1,4})", label) for label in labels]
    return np.array([(int(m[2]), int(m[1])) for m in found]) if all(found) else None


def _elided(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"


def _places(n_dim: int, grid: np.ndarray | None, positions) -> np.ndarray:
    if grid is not None:
        return _fitted(grid * [1.0, -1.0])
    if positions is None:
        angle = np.pi / 2 - 2 * np.pi * np.arange(n_dim) / n_dim
        return np.column_stack([np.cos(angle), np.sin(angle)]) if n_dim > 1 else np.zeros((1, 2))
    if isinstance(positions, Mapping):
        missing = [i for i in range(n_dim) if i not in positions]
        if missing:
            raise InputError(f"positions must place all {n_dim} variables by their number, variable {missing[0]} is missing.")
        positions = [positions[i] for i in range(n_dim)]
    places = as_points(positions, 2, "positions")
    if places.shape != (n_dim, 2):
        raise InputError(f"positions must have shape ({n_dim}, 2), one point per variable, got {places.shape}.")
    return _fitted(places)


def _fitted(places: np.ndarray) -> np.ndarray:
    """Moved and scaled, both axes alike, so that the larger extent is −1 … 1."""
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - 0.5 * (low + high)) / max(0.5 * (high - low).max(), 1e-300)


def _canvas(ax: Axes, places: np.ndarray, labels: list[str], torus: bool, key: float) -> Canvas:
    """Nodes as large as their neighbours allow, labels as large as their nodes allow; below, `key` points are left free."""
    spacing, ring = _spacing(places), len(places) > 1 and np.allclose(np.linalg.norm(places, axis=1), 1)
    radius = min(0.33 * spacing, 0.14)
    reach = 1 + (0.55 * spacing if torus else 1.4 * radius)
    box, longest = ax.get_window_extent(), _LETTER * max(1.6, *map(len, labels))
    width, height = (72 / ax.figure.dpi * length for length in (box.width, box.height))
    room = np.maximum([width, height - key], 1.0)
    font = min(12.0, 1.8 * radius * room.min() / (2 * reach) / longest)
    outside = bool(font < _LEGIBLE)
    if outside:
        font = float(np.clip(0.4 * spacing * room.min(), _LEGIBLE, 8.5))
        room = np.maximum(room - 2 * font * _beside(longest, ring, len(labels)), 0.3 * room)
    points = room.min() / (2 * reach)
    top = 0.5 * (height - key) / points
    ax.set(aspect="equal", xlim=(-0.5 * width / points, 0.5 * width / points), ylim=(top - height / points, top))
    ax.axis("off")
    return Canvas(places, spacing, radius, points, font, outside, ring)


def _beside(longest: float, ring: bool, count: int) -> np.ndarray:
    """Room that labels take beside the nodes on the left and above, in units of the font, as `_style` sets them."""
    if ring:
        return np.array([longest, longest if count > _MOST_UPRIGHT else 1.5])
    return np.array([0.5 * longest, 1.5])


def _spacing(places: np.ndarray) -> float:
    """Distance of a node to the nearest other one, the smallest but for a tenth of the nodes."""
    from scipy.spatial import cKDTree

    if len(places) == 1:
        return 1.0
    nearest = cKDTree(places).query(places, k=2)[0][:, 1]
    return max(float(np.quantile(nearest, 0.1)), 0.02)


def _draw_triples(ax: Axes, canvas: Canvas, triples: Interactions) -> None:
    for index, value, size in zip(triples.indices, triples.values, triples.sizes):
        area = _around(canvas.places[index], 0.6 * canvas.radius)
        ax.fill(*area.T, facecolor=_color(value), alpha=0.06 + 0.2 * size, lw=0, zorder=1)
        ax.plot(*area[[*range(len(area)), 0]].T, color=_color(value), alpha=0.15 + 0.3 * size, lw=0.7, zorder=1)


def _around(corners: np.ndarray, distance: float) -> np.ndarray:
    """Outline of all points within a distance of the convex hull of some corners, shape (n_points, 2)."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    outward = np.column_stack([np.cos(angle), np.sin(angle)])
    return corners[np.argmax(outward @ corners.T, axis=1)] + distance * outward


def _draw_pairs(ax: Axes, canvas: Canvas, pairs: Interactions, grid: np.ndarray | None) -> None:
    widest = _widest(canvas)
    for (i, j), value, size in zip(pairs.indices, pairs.values, pairs.sizes):
        for line in _lines(canvas, grid, i, j):
            ax.plot(*line.T, color=_color(value), lw=max(0.35, widest * size), alpha=0.2 + 0.7 * size, solid_capstyle="round", zorder=2)


def _widest(canvas: Canvas) -> float:
    """Points of the strongest pair: half a node, but a line."""
    return float(np.clip(0.4 * canvas.radius * canvas.points, 2.5, 4.5))


def _lines(canvas: Canvas, grid: np.ndarray | None, i: int, j: int) -> list[np.ndarray]:
    """Straight where nothing stands in between, else bent around it; in two halves where it closes a torus."""
    a, b = canvas.places[[i, j]]
    if grid is not None and _closes(grid, i, j):
        out = 0.5 * canvas.spacing * (a - b) / np.linalg.norm(a - b)
        return [np.array([a, a + out]), np.array([b, b - out])]
    t = np.linspace(0, 1, 40)[:, None]
    straight = a + t * (b - a)
    others = np.delete(canvas.places, [i, j], axis=0)
    if len(others) == 0 or np.linalg.norm(straight[:, None] - others, axis=2).min() > 1.1 * canvas.radius:
        return [straight]
    aside = 0.4 * np.array([a[1] - b[1], b[0] - a[0]])
    inward = -1.0 if aside @ (a + b) > 0 else 1.0
    return [straight + 2 * t * (1 - t) * inward * aside]


def _closes(grid: np.ndarray, i: int, j: int) -> bool:
    """Do two sites stand opposite each other on the borders of the grid?"""
    step, size = np.abs(grid[i] - grid[j]), np.ptp(grid, axis=0)
    return bool((step == 0).sum() == 1 and ((step == size) & (size > 1)).any())


def _draw_nodes(ax: Axes, canvas: Canvas, labels: list[str]) -> None:
    for label, place in zip(labels, canvas.places):
        ax.fill(*_around(place[None, :], canvas.radius).T, facecolor="white", edgecolor=_INK, lw=0.8, zorder=3)
        shift = canvas.outside * 1.4 * canvas.radius * (place if canvas.ring else np.array([0.0, -1.0]))
        ax.text(*(place + shift), label, fontsize=canvas.font, color=_INK, zorder=4, **_style(canvas, place, len(labels)))


def _style(canvas: Canvas, place: np.ndarray, count: int) -> dict:
    """In its node, or beside it: below in general, outwards on a ring, and along the radius where there are many."""
    if not canvas.outside:
        return {"ha": "center", "va": "center"}
    if not canvas.ring:
        return {"ha": "center", "va": "top"}
    x, y = place
    ha, va, turn = ("left" if x >= 0 else "right"), ("bottom" if y > 0 else "top"), np.degrees(np.arctan2(y, x))
    if count > _MOST_UPRIGHT:
        return {"ha": ha, "va": "center", "rotation": turn if x >= 0 else turn + 180, "rotation_mode": "anchor"}
    return {"ha": "center" if abs(x) < 0.3 else ha, "va": "center" if abs(y) < 0.9 else va}


def _color(value: float) -> str:
    return _RAISES if value > 0 else _LOWERS


class _Key(NamedTuple):
    """What widths, shades and colours mean, and what is not drawn, below the picture."""

    pairs: Interactions
    triples: Interactions
    note: str
    font: float
    n_columns: int

    @classmethod
    def of(cls, ax: Axes, pairs: Interactions, triples: Interactions, n_others: int) -> _Key:
        width = 72 / ax.figure.dpi * ax.get_window_extent().width
        font = float(np.clip(width / 45, 7.0, 10.0))
        note = f"{_counted(pairs, 'pairs')}, {_counted(triples, 'triples')}"
        note += f"; {n_others} other couplings not drawn" if n_others else ""
        return cls(pairs, triples, fill(note, int(width / (0.5 * font))), font, 4 if width > 42 * font else 2)

    @property
    def height(self) -> float:
        """In points."""
        return 1.6 * self.font * (1 + self.note.count("\n") + 4 // self.n_columns) + 4

    def entries(self, widest: float) -> list:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        values = np.concatenate([self.pairs.values, self.triples.values])
        signs = [(values > 0, _RAISES, "raises ln p"), (values < 0, _LOWERS, "lowers ln p")]
        entries = [Line2D([], [], color=color, lw=3, label=words) for there, color, words in signs if there.any()]
        if self.pairs.values.size:
            entries.append(Line2D([], [], color=_PALE, lw=widest, label=f"2! A⁽²⁾ = ±{np.abs(self.pairs.values).max():.2g}"))
        if self.triples.values.size:
            entries.append(Patch(color=_PALE, alpha=0.3, lw=0, label=f"3! A⁽³⁾ = ±{np.abs(self.triples.values).max():.2g}"))
        return entries

    def draw(self, ax: Axes, widest: float) -> None:
        key = ax.legend(handles=self.entries(widest), title=self.note, loc="lower center", ncols=self.n_columns, fontsize=self.font,
                        title_fontsize=self.font, frameon=False, borderpad=0.2, columnspacing=1.4, handlelength=1.6, labelcolor=_INK)
        key.get_title().set_color(_PALE)


def _counted(drawn: Interactions, what: str) -> str:
    return f"{len(drawn.values)} of {drawn.total} {what}" if drawn.total else f"no {what}"
