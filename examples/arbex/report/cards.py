"""The headline numbers of a report, each with a judgement in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from examples.arbex.report import judgement
from examples.arbex.report.judgement import Judgement
from examples.arbex.report.results import RunResults
from examples.arbex.report.scoring import SCORES

OURS, OTHER = "RobustLoss", "cross-entropy"


@dataclass(frozen=True)
class Card:
    """A headline number: its bars are (name, percent of the width, text, kind)."""

    label: str
    tip: str
    value: str
    unit: str
    judged: Judgement
    bars: Sequence[tuple[str, float, str, str]] = ()


def headline(results: RunResults) -> list[Card]:
    """Return the headline numbers that the run has."""
    scores, baseline = results.evaluation.corrected, results.baseline
    other = None if baseline is None else baseline.scores
    cards = []
    for field in ("accuracy", "mean_class_accuracy"):
        ours = getattr(scores, field)
        bars = [(OURS, ours, "", "ours")]
        judged = Judgement("")
        if baseline is not None:
            theirs = getattr(baseline.scores, field)
            bars.append((OTHER, theirs, SCORES[field].show(theirs), ""))
            judged = (
                judgement.lead_over(baseline.lead)
                if field == "accuracy" and baseline.lead is not None
                else Judgement(f"{ours - theirs:+.1f} points from cross-entropy, untested")
            )
        cards.append(_card(field, f"{ours:.1f} %", judged, bars))
    if scores.kl is not None:
        bars, judged = [], Judgement("")
        if other is not None and other.kl is not None:
            most = max(scores.kl, other.kl, 1e-9)
            bars = [
                (OURS, 100 * scores.kl / most, "", "ours"),
                (OTHER, 100 * other.kl / most, f"{other.kl:.3f}", ""),
            ]
            judged = judgement.share_below(scores.kl, other.kl)
        cards.append(_card("kl", f"{scores.kl:.3f} nats", judged, bars))
    cards += _calibration_card(results)
    cards += _label_cards(results)
    return cards


def _card(
    field: str,
    value: str,
    judged: Judgement,
    bars: Sequence[tuple[str, float, str, str]] = (),
) -> Card:
    number, _, unit = value.partition(" ")
    return Card(
        SCORES[field].label,
        SCORES[field].meaning,
        number,
        unit,
        judged,
        bars if len(bars) > 1 else (),
    )


def _calibration_card(results: RunResults) -> list[Card]:
    calibration = results.calibration
    if calibration is None:
        return []
    before, after = calibration.before.ece, calibration.after.ece
    rows = [("as trained", before, "other")]
    if calibration.is_fitted:
        rows.append(("calibrated", after, "ours"))
    if results.baseline is not None:
        rows.append((OTHER, results.baseline.scores.ece, "other"))
    most = max(value for _, value, _ in rows) or 1.0
    bars = [(name, 100 * value / most, f"{value:.1f} %", kind) for name, value, kind in rows]
    judged = judgement.calibrated(calibration)
    if not calibration.is_fitted:
        return [_card("ece", f"{before:.1f} %", judged, bars)]
    card = _card("ece", f"{after:.1f} % after calibration", judged, bars)
    return [replace(card, label="calibration error (ECE), calibrated")]


def _label_cards(results: RunResults) -> list[Card]:
    doubtful = results.doubtful
    if doubtful is None or doubtful.caution:
        return []
    found = doubtful.found
    if found is None or not found.num_wrong:
        share = 100 * doubtful.num_mislabelled / max(doubtful.num_labels, 1)
        return [
            Card(
                "labels called wrong",
                "Training labels with a doubt above 50 % that clearly look like another class.",
                f"{doubtful.num_mislabelled:,}",
                f"of {doubtful.num_labels:,}",
                Judgement(f"{share:.1f} % of the training labels"),
            )
        ]
    share = 100 * found.num_found / max(found.num_wrong, 1)
    bars = [("found", share, f"{share:.0f} %", "ours")]
    if found.precision is not None:
        bars.append(("right alarms", found.precision, f"{found.precision:.0f} %", ""))
    if found.auroc is not None:
        bars.append(("AUROC", 100 * found.auroc, f"{found.auroc:.2f}", ""))
    by_chance = 100 * found.num_wrong / max(doubtful.num_labels, 1)
    first = found.precision_of_first
    return [
        Card(
            "wrong labels found",
            "Training labels that are wrong, and that the ranking calls mislabelled. The true "
            "labels are known here, and were not used. AUROC is the share of pairs of a wrong and "
            "a right label in which the wrong one is more doubtful.",
            f"{found.num_found:,}",
            f"of {found.num_wrong:,}",
            judgement.found_labels(share, found.precision),
            bars,
        ),
        Card(
            "wrong among the 100 most doubtful",
            "Precision among the first 100 of the ranking. By chance it would be the share of "
            "wrong labels.",
            f"{first:.0f}",
            "%",
            judgement.precision_of_first(first),
            [
                ("by doubt", first, f"{first:.0f} %", "ours"),
                ("by chance", by_chance, f"{by_chance:.0f} %", ""),
            ],
        ),
    ]
