"""The audit as one self-contained HTML page."""

from pathlib import Path

from examples.arbex.audit.audit import AuditReport
from examples.arbex.faces.face_table import SPLIT_NAMES
from examples.arbex.report.html_page import picture_url, save_page
from examples.arbex.report.judgement import Verdict

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
        report=report,
        verdict=_verdict(report),
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
        problem_counts=list(report.problem_counts().items()),
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


def _verdict(report: AuditReport) -> Verdict:
    """Say in a sentence whether the data can be trained on as they are."""
    missing, count = report.missing
    faces = f"{int(report.counts.sum()):,} faces in {len(report.class_names)} classes"
    failed = [name for name, number in _checks(report) if number]
    if not failed:
        return Verdict("Clean.", f"{faces}; every check passed.", "good")
    lost = f"; {missing:,} of {count:,} were left out" if missing else ""
    number = f"{len(failed)} check{'s' * (len(failed) > 1)} failed"
    return Verdict("Look before you train.", f"{faces}{lost}; {number}.", "warn")


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
        checks.append(("equal images across splits", across))
    return checks
