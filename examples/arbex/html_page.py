"""One HTML page without outside files: pictures and style are in it."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from result_files import save_text

STYLE = """
:root { --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --accent: #1f6f8b; --good: #2e8b57;
  --bad: #c2453d; --card: #f8fafb; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .7rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; } .muted { color: var(--muted); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .8rem;
  margin: 1.4rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .8rem 1rem; }
.card b { display: block; font-size: 1.55rem; line-height: 1.25; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card span { font-size: .82rem; color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; }
th { font-weight: 600; color: var(--muted); text-align: left; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); }
td + td, th + th { text-align: right; padding: .32rem .4rem .32rem 1.4rem;
  font-variant-numeric: tabular-nums; }
td.best { font-weight: 650; color: var(--good); }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; display: block; }
/* On a phone a figure is scrolled, so that its text stays legible. */
@media (max-width: 40rem) { figure img { max-width: none; width: 38rem; } }
figcaption { color: var(--muted); font-size: .88rem; margin-top: .5rem; max-width: 46rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  overflow-x: auto; font-size: .82rem; line-height: 1.45; }
details summary { cursor: pointer; color: var(--accent); margin: .6rem 0; }
"""


def save_page(path: Path, title: str, sections: Sequence[str], *, style: str = STYLE) -> None:
    """Write the page, whole or not at all; the sections are HTML."""
    save_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n",
    )


def heading(text: str) -> str:
    """A section's title."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, *, muted: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p{' class=muted' if muted else ''}>{escape(text)}</p>"


def cards(figures: Sequence[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in figures
    )
    return f'<div class="cards">{inner}</div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[int | None] | None = None
) -> str:
    """A table whose first column is text; `best` names a column of each row to stand out."""

    def row(cells: Sequence[str], mark: int | None) -> str:
        inner = "".join(
            f"<td{' class=best' if place == mark else ''}>{escape(cell)}</td>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{inner}</tr>"

    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    marks = best or [None] * len(rows)
    body = "".join(row(cells, mark) for cells, mark in zip(rows, marks, strict=True))
    return f'<div class="wide"><table><tr>{titles}</tr>{body}</table></div>'


def picture(path: Path, caption: str) -> str:
    """A PNG file, put into the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><div class="wide"><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def folded(title: str, text: str) -> str:
    """Text as it is, shown when asked for."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
