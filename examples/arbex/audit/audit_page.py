"""The audit as one self-contained HTML page."""

from pathlib import Path

from examples.arbex.audit.audit import AuditReport
from examples.arbex.faces.face_table import SPLIT_NAMES
from examples.arbex.report.html_page import picture_url, save_page

MAX_ROWS = 200  # of a table; others are only counted
THUMBNAIL = 96


def write_html(report: AuditReport, path: Path) -> None:
    """Write the page, atomically."""
    counts = [
        [name, *column.tolist(), int(column.sum())]
        for name, column in zip(report.class_names, report.counts.T, strict=True)
    ]
    counts.append(["all classes", *report.counts.sum(1).tolist(), int(report.counts.sum())])
    save_page(
        path,
        "audit.html",
        title=f"{report.name}: audit",
        report=report,
        most_rows=MAX_ROWS,
        checks=_checks(report),
        count_head=["class", *SPLIT_NAMES, "all"],
        counts=counts,
        comparisons=[
            [each.part, each.class_name or "all classes", each.found, each.published]
            for each in report.comparisons
        ],
        differs=[each.found != each.published for each in report.comparisons],
        examples=[
            (name, [picture_url(image, THUMBNAIL) for image in images])
            for name, images in report.examples
        ],
        problems=[[each.kind, each.where, each.detail, each.count] for each in report.problems],
        duplicates=[
            [
                ", ".join(each.names),
                "yes" if each.across_splits else "no",
                "yes" if each.labels_differ else "no",
            ]
            for each in report.duplicates
        ],
        across=[each.across_splits for each in report.duplicates],
    )


def _checks(report: AuditReport) -> list[tuple[str, int]]:
    """Return the counts that should be 0."""
    checks = [
        ("problems in files and rows", sum(report.problem_counts().values())),
        ("groups in more than one split", report.shared_groups),
    ]
    if report.comparisons:
        differing = sum(each.found != each.published for each in report.comparisons)
        checks.append(("counts that differ from the published ones", differing))
    if report.num_checked:
        checks.append(("sets of equal images", len(report.duplicates)))
        across = sum(each.across_splits for each in report.duplicates)
        checks.append(("of them across splits", across))
    return checks
