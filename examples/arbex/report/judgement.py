"""What the numbers of a run mean: verdicts in words, each with a tone for its colour."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from examples.arbex.report.results import (
    CalibrationResult,
    DoubtfulLabels,
    Rate,
    ReliabilityBin,
    RunResults,
)

Tone = Literal["good", "warn", "bad", ""]
WELL_CALIBRATED, FAIRLY_CALIBRATED = 3.0, 6.0  # ECE, percent
NEAR_CERTAIN, USEFUL = 90.0, 60.0  # precision of the first doubtful labels, percent
WEAK_CLASS = 60.0  # recall, percent
Z = 1.96  # of a 95 % interval


class Judgement(NamedTuple):
    """A number in words."""

    text: str
    tone: Tone = ""


class Verdict(NamedTuple):
    """The result in a word or two, and in numbers."""

    word: str
    text: str
    tone: Tone


class Step(NamedTuple):
    """What to look at next, the section of the page that shows it, and a command."""

    text: str
    section: str = ""
    command: str = ""


def overall(results: RunResults) -> Verdict:
    """Say in one sentence whether the result is good."""
    evaluation = results.evaluation
    ours, count = evaluation.corrected.accuracy, evaluation.num_faces
    if results.baseline is not None:
        other = results.baseline.scores.accuracy
        text = f"{ours:.1f} % of the test faces are right, {other:.1f} % with plain cross-entropy."
        lead = results.baseline.lead
        if lead is None:
            return Verdict("", text, "")
        if not differs(lead):
            return Verdict("Level with cross-entropy.", text, "warn")
        if lead.value < 0:
            return Verdict("Worse than cross-entropy.", text, "bad")
        return Verdict("Better than cross-entropy.", text, "good")
    guess = 100 * max(each.support for each in evaluation.classes) / count
    text = (
        f"{ours:.1f} % of the test faces are right; always guessing the most frequent class gives "
        f"{guess:.1f} %."
    )
    if ours <= guess + sampling_error(ours, guess, count):
        return Verdict("No better than a guess.", text, "bad")
    return Verdict("", text, "")


def sampling_error(first: float, second: float, count: int) -> float:
    """Return the half width of the 95 % interval of a difference of accuracies, in points.

    It ignores that both are measured on the same faces, which makes it too wide.
    """
    variance = sum(each * (100 - each) for each in (first, second)) / count
    return Z * math.sqrt(variance)


def differs(lead: Rate) -> bool:
    """Return whether a difference is significant: its interval excludes 0."""
    return not lead.low <= 0 <= lead.high


def lead_over(lead: Rate) -> Judgement:
    """Judge a paired difference in accuracy from cross-entropy."""
    limits = f"95 % interval {lead.low:+.1f} to {lead.high:+.1f}"
    if not differs(lead):
        return Judgement(f"level with cross-entropy ({lead.value:+.1f} points, {limits})")
    better = lead.value > 0
    word = "better" if better else "worse"
    return Judgement(
        f"{abs(lead.value):.1f} points {word} than cross-entropy ({limits})",
        "good" if better else "bad",
    )


def share_below(ours: float, other: float) -> Judgement:
    """Compare two divergences, of which the smaller is better."""
    change = 100 * (ours - other) / max(other, 1e-9)
    if abs(change) < 3:
        return Judgement("level with cross-entropy")
    word = "closer" if change < 0 else "farther"
    return Judgement(
        f"{abs(change):.0f} % {word} than cross-entropy", "good" if change < 0 else "bad"
    )


def calibration_of(ece: float, bins: Sequence[ReliabilityBin]) -> Judgement:
    """Judge a calibration error, and say in which direction the probabilities are wrong."""
    if ece <= WELL_CALIBRATED:
        return Judgement("well calibrated", "good")
    count = sum(each.count for each in bins)
    confidence = sum(each.confidence * each.count for each in bins) / count
    accuracy = sum(each.accuracy * each.count for each in bins) / count
    gap = confidence - accuracy
    if abs(gap) < ece / 2:
        direction = "overconfident for some faces, underconfident for others"
    else:
        direction = (
            f"{'over' if gap > 0 else 'under'}confident: {confidence:.0f} % sure on average, "
            f"right for {accuracy:.0f} %"
        )
    return Judgement(direction, "warn" if ece <= FAIRLY_CALIBRATED else "bad")


def calibration_fails(result: CalibrationResult) -> bool:
    """Return whether calibration raised the calibration error or the NLL of the test faces.

    It does not matter where the model is well calibrated before and after, or nothing was fitted.
    """
    before, after = result.before, result.after
    matters = result.is_fitted and max(before.ece, after.ece) > WELL_CALIBRATED
    return matters and (after.ece > before.ece or after.nll > before.nll)


def calibrated(result: CalibrationResult) -> Judgement:
    """Judge the calibration error before and after calibration."""
    before = calibration_of(result.before.ece, result.bins_before)
    after = calibration_of(result.after.ece, result.bins_after)
    if not result.is_fitted:
        return Judgement(f"not calibrated, too few validation faces: {before.text}", before.tone)
    if calibration_fails(result):
        return Judgement("calibration did not help: too few validation faces", "bad")
    if before.tone == "good":
        return Judgement(f"{before.text} as trained", "good")
    return Judgement(f"after calibration {after.text}", after.tone)


def found_labels(recall: float, precision: float | None) -> Judgement:
    """Judge which share of the wrong labels was found, and how many alarms were right."""
    if recall < 100 / 2:
        return Judgement("cautious: review beyond those that are called wrong", "warn")
    if precision is not None and precision < NEAR_CERTAIN:
        wrong = f"{100 - precision:.0f} % of the alarms are false"
        return Judgement(f"most were found; {wrong}", "good" if precision >= USEFUL else "warn")
    return Judgement("most were found, with few false alarms", "good")


def precision_of_first(percent: float) -> Judgement:
    """Judge how many of the most doubtful labels are wrong."""
    if percent >= NEAR_CERTAIN:
        return Judgement("nearly all are wrong: the ranking can be trusted", "good")
    if percent >= USEFUL:
        return Judgement("most are wrong: check each before you relabel it", "warn")
    return Judgement("many are right: the ranking helps little here", "bad")


def next_steps(results: RunResults, review: str) -> Iterator[Step]:
    """Yield what to look at next, most useful first.

    Args:
        results: of the run.
        review: the command that reviews its doubtful labels.
    """
    evaluation, calibration = results.evaluation, results.calibration
    if results.doubtful is not None:
        yield from _review(results.doubtful, review)
    weakest = min((each for each in evaluation.classes if each.support), key=lambda e: e.recall)
    if weakest.recall < WEAK_CLASS:
        taken_for, share = most_confused(results, weakest.name)
        yield Step(
            f"Improve “{weakest.name}”: {weakest.recall:.0f} % of its faces are recognised, "
            f"{share:.0f} % are taken for “{taken_for}”. More of its images help most.",
            "classes",
        )
    if calibration is not None:
        yield from _calibrate(calibration)
    selective = results.selective
    if selective is not None and selective.threshold is not None and selective.risk is not None:
        errors = 100 - evaluation.corrected.accuracy
        yield Step(
            f"Let the model answer “not sure” below {100 * selective.threshold:.0f} %: it then "
            f"answers for {selective.coverage:.0f} % of the faces, and is wrong for "
            f"{selective.risk:.1f} % of them instead of {errors:.1f} %.",
            "risk",
        )
    for finding in results.findings:
        yield Step(f"On the validation faces, {finding.what}: {finding.advice}.")


def most_confused(results: RunResults, name: str) -> tuple[str, float]:
    """Return the class that a class is most often taken for, and the share of its faces."""
    names = [each.name for each in results.evaluation.classes]
    row = list(results.evaluation.confusion[names.index(name)])
    total = sum(row)
    row[names.index(name)] = -1
    most = max(row)
    return names[row.index(most)], 100 * most / total


def _calibrate(calibration: CalibrationResult) -> Iterator[Step]:
    before, after = calibration.before, calibration.after
    if calibration_fails(calibration):
        text = (
            f"Do not use the calibrated probabilities: ECE {before.ece:.1f} % became "
            f"{after.ece:.1f} %, NLL {before.nll:.3f} became {after.nll:.3f}. The "
            f"{calibration.num_fitted} validation faces that they were fitted on are too few."
        )
    elif calibration.is_fitted and before.ece > WELL_CALIBRATED:
        text = (
            f"Use the calibrated probabilities, which are off by {after.ece:.1f} points on "
            f"average, not {before.ece:.1f}."
        )
    else:
        return
    yield Step(text, "calibration")


def _review(doubtful: DoubtfulLabels, command: str) -> Iterator[Step]:
    if doubtful.caution:
        yield Step("Train longer or on more faces: labels cannot be judged yet.", "labels")
    elif doubtful.num_mislabelled:
        yield Step(
            f"Review the {doubtful.num_mislabelled:,} labels that are called wrong, and train "
            "again with the corrections.",
            "labels",
            command,
        )
