"""The audit as one HTML page without outside files."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from faces.face_table import SPLIT_NAMES
from html_page import save_page
from PIL import Image
from torch import Tensor

from inspection.audit import AuditReport

MAX_ROWS = 200  # of a table; the rest is counted
THUMBNAIL = 96

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2a8a57; --bad: #c2453d; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.faces img { width: 72px; height: 72px; object-fit: cover; border-radius: 6px; margin: 2px; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""

Cell = str | int


def write_html(report: AuditReport, path: Path) -> None:
    """Write the page, whole or not at all."""
    sections = [
        f"<h1>{escape(report.name)}: {int(report.counts.sum())} faces</h1>",
        _summary(report),
        "<h2>Images of each class</h2>",
        _counts(report),
        _comparisons(report),
        _faces(report),
        _problems(report),
        _duplicates(report),
    ]
    shown = [section for section in sections if section]
    save_page(path, f"{report.name}: inspection", shown, style=STYLE)


def _summary(report: AuditReport) -> str:
    differing = sum(each.found != each.published for each in report.comparisons)
    across = sum(each.across_splits for each in report.duplicates)
    checks = [
        ("problems in files and rows", sum(report.problem_counts().values())),
        ("groups in more than one split", report.shared_groups),
    ]
    if report.comparisons:
        checks.append(("counts that differ from the published ones", differing))
    if report.num_checked:
        checks.append(("sets of equal images", len(report.duplicates)))
        checks.append(("of them across splits", across))
    rows = "".join(
        f'<tr><td>{name}</td><td class="number {"bad" if count else "good"}">{count}</td></tr>'
        for name, count in checks
    )
    note = (
        f"<p>{report.num_checked} images were decoded.</p>"
        if report.num_checked
        else "<p>Images were not decoded: damaged and equal ones were not looked for.</p>"
    )
    return f"<table>{rows}</table>{note}"


def _counts(report: AuditReport) -> str:
    rows: list[list[Cell]] = [
        [name, *report.counts[:, index].tolist(), int(report.counts[:, index].sum())]
        for index, name in enumerate(report.class_names)
    ]
    rows.append(["all classes", *report.counts.sum(1).tolist(), int(report.counts.sum())])
    return _table(["class", *SPLIT_NAMES, "all"], rows)


def _comparisons(report: AuditReport) -> str:
    if not report.comparisons:
        return ""
    rows: list[list[Cell]] = [
        [each.part, each.class_name or "all classes", each.found, each.published]
        for each in report.comparisons
    ]
    marks = [each.found != each.published for each in report.comparisons]
    return f"<h2>Against the published counts</h2><p>Source: {escape(report.source)}.</p>" + _table(
        ["part", "class", "found", "published"], rows, marks
    )


def _faces(report: AuditReport) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{''.join(_thumbnail(image) for image in images)}</td></tr>"
        for name, images in report.examples
    )
    return f'<h2>Some faces of each class</h2><table class="faces">{rows}</table>'


def _thumbnail(image: Tensor) -> str:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _problems(report: AuditReport) -> str:
    if not report.problems:
        return ""
    kinds: list[list[Cell]] = [[kind, count] for kind, count in report.problem_counts().items()]
    rows: list[list[Cell]] = [
        [each.kind, each.where, each.detail, each.count] for each in report.problems
    ]
    return (
        "<h2>Problems</h2>"
        + _table(["kind", "rows or images"], kinds)
        + "<h2>Where</h2>"
        + _table(["kind", "where", "detail", "rows or images"], rows)
    )


def _duplicates(report: AuditReport) -> str:
    if not report.duplicates:
        return ""
    rows: list[list[Cell]] = [
        [
            ", ".join(each.names),
            "yes" if each.across_splits else "no",
            "yes" if each.labels_differ else "no",
        ]
        for each in report.duplicates
    ]
    marks = [each.across_splits for each in report.duplicates]
    return "<h2>Equal images</h2>" + _table(
        ["images", "across splits", "labels differ"], rows, marks
    )


def _table(head: list[str], rows: list[list[Cell]], marks: list[bool] | None = None) -> str:
    """A table of which marked rows stand out; numbers are set to the right."""

    def cell(value: Cell, bad: bool) -> str:
        kind = " ".join(["number"] * isinstance(value, int) + ["bad"] * bad)
        return f'<td class="{kind}">{escape(str(value))}</td>'

    shown = rows[:MAX_ROWS]
    bad_rows = marks or [False] * len(rows)
    body = "".join(
        "<tr>" + "".join(cell(value, bad) for value in row) + "</tr>"
        for row, bad in zip(shown, bad_rows[:MAX_ROWS], strict=True)
    )
    numeric = [isinstance(value, int) for value in rows[0]]
    titles = "".join(
        f'<th class="{"number" if right else ""}">{escape(title)}</th>'
        for title, right in zip(head, numeric, strict=True)
    )
    more = f"<p>… and {len(rows) - MAX_ROWS} more</p>" if len(rows) > MAX_ROWS else ""
    return f'<div class="wide"><table><tr>{titles}</tr>{body}</table></div>{more}'
