"""The results of a run as text, for the terminal and ``metrics.txt``."""

from collections.abc import Iterator, Sequence

from examples.arbex.report.evaluation import Evaluation
from examples.arbex.report.judgement import calibration_fails, lead_over
from examples.arbex.report.results import (
    FIRST,
    CalibrationResult,
    DoubtfulFace,
    DoubtfulLabels,
    RunResults,
    SelectiveResult,
)
from examples.arbex.report.scoring import SCORES


def format_results(results: RunResults) -> str:
    """Format all results: scores beside the baseline, classes, then a sentence for each part."""
    evaluation = results.evaluation
    lines = [f"{evaluation.num_faces} faces of {evaluation.dataset}", ""]
    columns = {"this model": evaluation.corrected}
    if results.calibration is not None and results.calibration.is_fitted:
        columns["calibrated"] = results.calibration.after
    if results.baseline is not None:
        columns["cross-entropy"] = results.baseline.scores
    lines.append(f"{'':36}" + "".join(f"{name:>15}" for name in columns))
    for name, score in SCORES.items():
        if getattr(evaluation.corrected, name) is not None:
            cells = (score.show(getattr(scores, name)) for scores in columns.values())
            lines.append(f"{score.label:36}" + "".join(f"{each:>15}" for each in cells))
    if results.baseline is not None:
        lines.append(f"cross-entropy: {results.baseline.origin}")
        if results.baseline.lead is not None:
            lines.append(f"accuracy: {lead_over(results.baseline.lead).text}")
    lines += ["", *_classes(evaluation), ""]
    if results.doubtful is not None:
        lines += describe_doubts(results.doubtful)
    if results.calibration is not None:
        lines.append(describe_calibration(results.calibration))
    if results.selective is not None:
        lines.append(describe_selection(results.selective))
    for finding in results.findings:
        lines += ["", f"look at, on the validation faces: {finding.what}", f"  {finding.advice}"]
    return "\n".join(lines)


def describe_doubts(doubtful: DoubtfulLabels) -> Iterator[str]:
    """Say how many training labels are likely wrong, and how many of these are."""
    if doubtful.caution:
        yield (
            f"Doubtful labels: no verdicts (“unknown”), {doubtful.caution}; the order still says "
            "which to look at first"
        )
        return
    rate, estimate = doubtful.noise_rate, ""
    if rate is not None:
        limits = f"[{rate.low:.0f}, {rate.high:.0f}]"
        estimate = f"; estimated share of wrong labels {rate.value:.0f} % {limits}"
    yield (
        f"Doubtful labels: {doubtful.num_mislabelled} of {doubtful.num_labels} training labels "
        f"called mislabelled, {doubtful.num_ambiguous} ambiguous{estimate}"
    )
    found = doubtful.found
    if found is not None and found.num_wrong:
        yield (
            f"Of the {found.num_wrong} wrong labels {found.num_found} were found "
            f"({100 * found.num_found / found.num_wrong:.0f} %); of the {FIRST} most doubtful "
            f"labels {found.precision_of_first:.0f} % are wrong"
        )


def format_doubts(faces: Sequence[DoubtfulFace]) -> str:
    """Format doubtful faces as a table."""
    rows = [("doubt", "given", "suggested", "verdict", "face")]
    rows += [
        (f"{each.doubt:.2f}", each.given, each.suggested, each.verdict, each.name) for each in faces
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def describe_calibration(calibration: CalibrationResult) -> str:
    """Say what calibration did to the probabilities."""
    if not calibration.is_fitted:
        return (
            f"Calibration: nothing was fitted, since {calibration.num_fitted} validation faces are "
            f"too few to show a better temperature; ECE {calibration.before.ece:.1f} %"
        )
    verdict = "; it did not help" if calibration_fails(calibration) else ""
    return (
        f"Calibration on {calibration.num_fitted} validation faces: ECE "
        f"{calibration.before.ece:.1f} % before, {calibration.after.ece:.1f} % after{verdict}"
    )


def describe_selection(selective: SelectiveResult) -> str:
    """Say for which share of the faces the model is sure, and how often it is wrong there."""
    if selective.threshold is None or selective.risk is None:
        return (
            f"Not sure of any face: no threshold is certain to keep the error rate below "
            f"{selective.max_risk:.0f} %"
        )
    return (
        f"Sure of {selective.coverage:.0f} % of the faces (target: at most "
        f"{selective.max_risk:.0f} % errors): {selective.risk:.1f} % of these are wrong"
    )


def _classes(evaluation: Evaluation) -> Iterator[str]:
    width = max(len(each.name) for each in evaluation.classes) + 2
    yield f"{'':{width}}{'faces':>7}{'precision':>11}{'recall':>9}{'F1':>8}"
    for each in evaluation.classes:
        yield (
            f"{each.name:{width}}{each.support:7}{each.precision:11.1f}{each.recall:9.1f}"
            f"{each.f1:8.1f}"
        )
