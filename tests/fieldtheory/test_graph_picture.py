"""The picture of an interaction graph: what is drawn, how, and whether it can be read."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import fieldtheory as ft
from fieldtheory import plots
from fieldtheory.errors import InputError
from fieldtheory.graph_picture import _around
from fieldtheory.tensors import packed_size

BLUE, RED = "#2166ac", "#b2182b"


def dense(n_dim, orders=(2, 3), names=None):
    rng = np.random.default_rng(0)
    packed = {k: rng.normal(size=packed_size(n_dim, k)) ** 3 for k in orders}
    return ft.Action({k: ft.SymmetricTensor.from_packed(v, n_dim, k) for k, v in packed.items()}, names=names)


def drawn(action, size=(7, 7), **options):
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    ax = plots.interaction_graph(figure.add_subplot(), action, **options)
    figure.canvas.draw()
    return ax


def pair_lines(ax):
    return [line for line in ax.lines if line.get_zorder() == 2]


def areas(ax):
    return [patch for patch in ax.patches if patch.get_zorder() == 1]


def note(ax):
    return ax.get_legend().get_title().get_text()


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_sign_is_colour_and_strength_is_width():
    S = ft.Action({2: [[-1, 0.5, -0.2, 0], [0.5, -1, 0.1, 0], [-0.2, 0.1, -1, 1e-17], [0, 0, 1e-17, -1]],
                   3: ft.SymmetricTensor.from_entries([(0, 1, 2), (1, 2, 3), (0, 0, 1)], [0.3, -0.6, 0.1], 4)})
    ax = drawn(S)
    lines = {tuple(np.round(line.get_xydata()[[0, -1]], 6).ravel()): line for line in pair_lines(ax)}
    assert [to_hex(line.get_color()) for line in lines.values()] == [BLUE, RED, BLUE] and len(lines) == 3  # weakest first
    widths = [line.get_linewidth() for line in lines.values()]
    np.testing.assert_allclose(widths, max(widths) * np.array([0.2, 0.4, 1]), rtol=1e-12)
    assert [to_hex(area.get_facecolor()) for area in areas(ax)] == [BLUE, RED]
    assert areas(ax)[0].get_alpha() < areas(ax)[1].get_alpha()
    assert note(ax) == "3 of 3 pairs, 2 of 2 triples; 1 other couplings not drawn"
    assert words(ax) == ["raises ln p", "lowers ln p", "2! A⁽²⁾ = ±1", "3! A⁽³⁾ = ±3.6"]


def test_the_strongest_are_drawn_and_the_rest_is_counted():
    S = dense(6, (2, 3, 4))
    ax = drawn(S, n_pairs=4, n_triples=2)
    assert len(pair_lines(ax)) == 4 and len(areas(ax)) == 2
    assert note(ax) == f"4 of 15 pairs, 2 of 20 triples; {30 + packed_size(6, 4) - 6} other couplings not drawn"
    strongest = max((abs(2 * S[i, j]), i, j) for i, j in combinations(range(6), 2))
    ring = np.column_stack([np.sin(np.pi / 3 * np.arange(6)), np.cos(np.pi / 3 * np.arange(6))])
    np.testing.assert_allclose(pair_lines(ax)[-1].get_xydata()[[0, -1]], ring[list(strongest[1:])], atol=1e-12)


def test_lattices_stand_on_their_sites_and_close_on_the_torus():
    ax = drawn(ft.theories.phi4(ft.theories.lattice((3, 4)), 1, 1))
    places = {text.get_text(): text.get_position() for text in ax.texts}
    np.testing.assert_allclose(places["0,0"], [-1, 2 / 3], atol=1e-12)
    np.testing.assert_allclose(places["2,3"], [1, -2 / 3], atol=1e-12)
    assert note(ax) == "24 of 24 pairs, no triples"
    inside, outside = 3 * 3 + 4 * 2, 3 + 4
    assert len(pair_lines(ax)) == inside + 2 * outside
    assert max(np.abs(line.get_xydata()).max() for line in pair_lines(ax)) == pytest.approx(1 + 1 / 3)
    assert len(pair_lines(drawn(ft.theories.phi4(ft.theories.lattice((2, 3)), 1, 1)))) == 3 + 4 + 2 * 2  # two rows: one bond, not two


def test_positions_of_networkx():
    S = ft.theories.soft_ising(nx.karate_club_graph(), 0.3)
    layout = nx.spring_layout(S.to_graph(), seed=0)
    ax = drawn(S, positions=layout)
    shown, given = np.array([text.get_position() for text in ax.texts]), np.array([layout[i] for i in range(34)])
    scale = np.ptp(shown, axis=0) / np.ptp(given, axis=0)
    assert scale[0] == pytest.approx(scale[1]) and np.abs(shown).max() == pytest.approx(1)
    np.testing.assert_allclose(drawn(S, positions=given).texts[5].get_position(), shown[5])


def test_outline_keeps_its_distance_from_the_hull():
    corners = np.array([[0, 0], [2, 0], [1, 1.0]])
    outline = _around(corners, 0.1)
    weights = np.random.default_rng(0).dirichlet(np.full(3, 0.2), size=4000)
    distance = np.linalg.norm(outline[:, None] - weights @ corners, axis=2).min(axis=1)
    np.testing.assert_allclose(distance, 0.1, atol=0.03)
    np.testing.assert_allclose(np.ptp(_around(np.array([[0, 0], [1, 0], [2, 0.0]]), 0.5), axis=0), [3, 1])  # in a row: a capsule


def test_lines_avoid_the_nodes_in_between():
    T = np.ones((9, 9)) - 2 * np.eye(9)
    ax = drawn(ft.Action({2: T}, names=[f"{i},{j}" for i in range(3) for j in range(3)]), n_pairs=99)
    nodes, radius = np.array([text.get_position() for text in ax.texts]), 0.14
    for line in pair_lines(ax):
        ends = line.get_xydata()[[0, -1]]
        others = [p for p in nodes if np.linalg.norm(ends - p, axis=1).min() > 1e-9]
        assert min(np.linalg.norm(line.get_xydata() - p, axis=1).min() for p in others) > radius


LEGIBLE = {
    "one": (ft.theories.one_site(0.1, 0.1), (4, 3)),
    "two": (ft.theories.soft_ising(nx.path_graph(2), -0.3), (4, 3)),
    "six": (dense(6), (5, 4.5)),
    "sixteen": (dense(16, (2, 3, 4)), (6, 5.5)),
    "sixty-four": (dense(64), (7, 7)),
    "sixty-four, small": (dense(64), (4.6, 3.7)),
    "lattice": (ft.theories.phi4(ft.theories.lattice((8, 8)), -1, 1), (6, 6)),
    "names": (dense(6, names=["sepal length", "sepal width", "petal length", "petal width", "colour", "mean concave points (worst)"]),
              (6, 4.5)),
    "sixty-four names": (dense(64, names=[f"variable {i}" for i in range(64)]), (7, 7)),
    "path of names": (ft.theories.soft_ising(nx.relabel_nodes(nx.path_graph(4), lambda i: f"site {i}"), 0.3), (4, 4)),
}


@pytest.mark.parametrize("case", LEGIBLE)
def test_labels_can_be_read(case):
    """No label is small, on another one or off the figure, and the key is below all nodes and within its width."""
    action, size = LEGIBLE[case]
    ax = drawn(action, size)
    assert min(text.get_fontsize() for text in ax.texts) >= 5.5
    boxes = [text.get_window_extent() for text in ax.texts if text.get_rotation() % 180 == 0]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    anchors = np.array([ax.transData.transform(text.get_position()) for text in ax.texts if text.get_rotation() % 180])
    if len(anchors):
        nearest = min(np.linalg.norm(a - b) for a, b in combinations(anchors, 2))
        assert nearest > ax.texts[0].get_fontsize() * ax.figure.dpi / 72
    key, nodes = ax.get_legend().get_window_extent(), [p.get_window_extent() for p in ax.patches if p.get_zorder() == 3]
    assert key.y1 < min(node.y0 for node in nodes) and key.x0 >= 0 and key.x1 <= ax.figure.bbox.width
    assert all(box.x0 >= 0 and box.x1 <= ax.figure.bbox.width and box.y1 <= ax.figure.bbox.height for box in boxes)


@pytest.mark.parametrize(("options", "message"), [
    ({"positions": np.zeros((3, 2))}, r"positions must have shape \(2, 2\), one point per variable, got \(3, 2\)"),
    ({"positions": {0: (0, 0)}}, "positions must place all 2 variables by their number, variable 1 is missing"),
    ({"positions": [[0, np.nan], [1, 1]]}, "positions must be finite"),
    ({"n_pairs": -1}, "n_pairs must be a whole number of at least 0"),
    ({"n_triples": 0.5}, "n_triples must be a whole number"),
])
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        drawn(ft.theories.soft_ising(nx.path_graph(2), -0.3), **options)


def test_a_picture_has_an_end():
    with pytest.raises(InputError, match="up to 400 variables to be drawn, got 500; draw a part"):
        drawn(ft.Action({1: np.ones(500)}))
