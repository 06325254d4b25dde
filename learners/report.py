"""One self-contained page with the numbers and pictures of a run.

A page is a question, chapters and provenance. A chapter opens with its verdict in words; pictures are inline vector graphics, one
panel per image, so that they stand side by side on a laptop and below each other on a phone. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, version

from fieldtheory import __version__
from fieldtheory.files import write_text

_PACKAGES = ("numpy", "scipy", "numba", "torch", "xarray", "networkx")

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6773; --line: #dde3e9; --accent: #1f5fa8; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f5f8; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 1.65rem; line-height: 1.2; margin: 0 0 .3em; }
h2 { font-size: 1.25rem; margin: 0 0 .5em; }
.question { color: var(--soft); font-size: 1.05rem; margin: 0 0 1.2em; max-width: 70ch; }
section, .summary { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 0 0 20px; }
.summary { border-left: 5px solid var(--accent); }
.summary ul { margin: 0; padding-left: 1.2em; }
.summary li { margin: .35em 0; }
.verdict { border-left: 4px solid var(--accent); padding: .1em 0 .1em .9em; margin: 0 0 1em; max-width: 80ch; font-weight: 500; }
p { max-width: 80ch; margin: .6em 0; }
figure { margin: 1.2em 0; }
.panels { display: flex; flex-wrap: wrap; gap: 12px; }
.panels img { flex: 1 1 300px; min-width: 0; max-width: 100%; height: auto; }
.panels.one img { flex: 0 1 640px; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 85ch; margin-top: .3em; }
.scroll { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4em; }
th, td { padding: .32em .8em .32em 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
details { color: var(--soft); font-size: .88rem; }
@media (max-width: 600px) { main { padding: 14px 10px 30px; } section, .summary { padding: 14px 12px; } h1 { font-size: 1.35rem; } }
"""


@dataclass(frozen=True)
class Picture:
    """Panels drawn by `panel`, side by side where there is room, with one caption."""

    panels: Sequence[str]
    caption: str

    def html(self) -> str:
        """A figure element."""
        label = escape(self.caption, quote=True)
        images = "".join(f'<img alt="{label}" src="data:image/svg+xml;base64,{panel}">' for panel in self.panels)
        one = " one" if len(self.panels) == 1 else ""
        return f'<figure><div class="panels{one}">{images}</div><figcaption>{escape(self.caption)}</figcaption></figure>'


@dataclass(frozen=True)
class Table:
    """Rows of already formatted cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def html(self) -> str:
        """A table element that scrolls sideways where the screen is narrow."""
        head = "".join(f"<th>{escape(c)}</th>" for c in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return (f'<div class="scroll"><table><caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead>'
                f"<tbody>{body}</tbody></table></div>")

    def text(self) -> str:
        """The same, aligned for a terminal."""
        grid = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(row[i]) for row in grid) for i in range(len(self.columns))]
        lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in grid]
        return "\n".join(([self.caption] if self.caption else []) + lines)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str

    def html(self) -> str:
        """A paragraph element."""
        return f"<p>{escape(self.words)}</p>"


@dataclass(frozen=True)
class Chapter:
    """A part of the page: its verdict in words, then what it rests on."""

    title: str
    verdict: str
    parts: Sequence[Picture | Table | Text]

    def headline(self) -> str:
        """A list item for the top of the page: the first sentence of the verdict."""
        return f"<li><b>{escape(self.title)}.</b> {escape(self.verdict.split('. ')[0].rstrip('.'))}.</li>"

    def html(self) -> str:
        """A section element."""
        return (f'<section><h2>{escape(self.title)}</h2><p class="verdict">{escape(self.verdict)}</p>'
                + "".join(part.html() for part in self.parts) + "</section>")


@dataclass(frozen=True)
class Report:
    """A whole page.

    Attributes
    ----------
    title, question : str
        What this is and what was asked.
    chapters : sequence of Chapter
        The headlines of all of them open the page where there is more than one.
    provenance : dict
        Everything needed to get the same numbers again; versions are added.
    """

    title: str
    question: str
    chapters: Sequence[Chapter]
    provenance: dict = field(default_factory=dict)

    def html(self) -> str:
        """The page as one string."""
        return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
                f'initial-scale=1"><title>{escape(self.title)}</title><style>{STYLE}</style></head><body><main>'
                f'<h1>{escape(self.title)}</h1><p class="question">{escape(self.question)}</p>{self._summary()}'
                + "".join(chapter.html() for chapter in self.chapters) + self._provenance() + "</main></body></html>\n")

    def save(self, path):
        """Write the page whole or not at all; returns its path."""
        return write_text(path, self.html())

    def _summary(self) -> str:
        if len(self.chapters) < 2:
            return ""
        return f'<div class="summary"><ul>{"".join(chapter.headline() for chapter in self.chapters)}</ul></div>'

    def _provenance(self) -> str:
        facts = {**self.provenance, "versions": ", ".join(f"{k} {v}" for k, v in versions().items())}
        rows = "".join(f"<div><b>{escape(str(k))}:</b> {escape(str(v))}</div>" for k, v in facts.items())
        return f"<section><details open><summary>Provenance</summary>{rows}</details></section>"


def versions() -> dict[str, str]:
    """Versions of this package, Python and what the numbers depend on."""
    found = {"fieldtheory-learners": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def panel(draw: Callable, *args, size: tuple[float, float] = (4.6, 3.7), **kwargs) -> str:
    """Let ``draw(ax, *args, **kwargs)`` fill one panel; base64 of an SVG, the same for the same input."""
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "fieldtheory", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
                "axes.titlesize": 11, "legend.frameon": False, "legend.fontsize": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot(), *args, **kwargs)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()
