"""Findings of a diagnosis: one rule per failure mode, with advice."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.binomial import error_rate_bound
from reliability_balance.diagnosis.symptoms import Changes
from reliability_balance.labels import Interval

# Thresholds of the rules; each is far from the values of healthy models.
MISLED = 0.05  # gain in the anchor branch's accuracy without unused anchors
MISSED, FOUND = 0.1, 0.5  # recall of a class, by the anchor branch and by another one
COLLAPSED_SPACING = 0.01  # of the anchors' spread
UNIFORM_CONFIDENCE = 0.01
CONSTANT_DEVIATION = 1e-3  # standard deviation of a class's probability over samples
LAG = 0.2  # accuracy of a branch below the best branch's
SIGMAS_OF_HARM = 2.0
CONFIDENCE_GAP = 0.1  # between mean probability and accuracy
SHARE_RATIO, ENOUGH_SAMPLES = 5.0, 10
NEGLIGIBLE_NOISE = 0.01
COVERAGE_GAP = 0.02
CHANCE = 0.025  # of a finding by exact binomial limits

SUPERVISE = "raise `branch_weight` of the loss"  # valid from 0 and from any other weight
CALIBRATE = (
    "calibrate on held-out data: `calibrate(model, held_out)`; if its labels are noisy, with "
    "`noise=criterion`"
)
"""Advice on predictions that are over- or underconfident."""


class Finding(NamedTuple):
    """A problem and how to fix it."""

    what: str
    advice: str


def non_finite(names: tuple[str, ...]) -> Finding:
    """Report NaN or infinite weights; then nothing else can be judged."""
    return Finding(
        f"NaN or infinite weights: {checks.listed(names)}",
        "go back to an earlier checkpoint; `non_finite_terms` of each batch's loss names the term "
        "in which it starts; lower the learning rate or clip the gradients",
    )


def misleading_anchors(use: Tensor, without: Changes, samples: int) -> Finding | None:
    """Report anchors that are never the nearest of their class, but attract other classes.

    Other unused anchors do no harm: a compact class needs one anchor.
    """
    gain = without.helped - without.harmed
    by_chance = SIGMAS_OF_HARM * math.sqrt(without.helped + without.harmed)
    if gain <= max(by_chance, MISLED * samples):
        return None
    occurring = use[use.sum(-1) > 0]
    return Finding(
        f"{int((occurring == 0).sum())} of {occurring.numel()} anchors mislead: never the nearest "
        f"of their class, but without them the anchor branch would be right for {gain} more of "
        f"{samples} samples",
        "initialise them from the data by `initialize_anchors`, or train all of them by "
        "`ReliabilityLoss(softmin_temperature=...)`, or use fewer: `num_anchors`",
    )


def useless_anchors(
    recalls: dict[str, Tensor], counts: Tensor, names: Sequence[str]
) -> Finding | None:
    """Report classes that the anchor branch misses and another branch does not.

    `recalls` are (C,) for each branch; `counts` of samples (C,); `names` of the C classes.
    """
    others = [recall for name, recall in recalls.items() if name != "anchor"]
    missed = (recalls["anchor"] < MISSED) & (torch.stack(others).amax(0) > FOUND)
    classes = (missed & (counts >= ENOUGH_SAMPLES)).nonzero().flatten().tolist()
    if not classes:
        return None
    return Finding(
        f"the anchors of classes {checks.listed(names[each] for each in classes)} are useless: the "
        f"anchor branch is right for less than {100 * MISSED:.0f} % of their samples, another "
        f"branch for more than {100 * FOUND:.0f} %",
        "initialise them from the data by `initialize_anchors`, or supervise the anchor branch "
        f"more: {SUPERVISE}",
    )


def collapsed_anchors(spacing: Tensor) -> Finding | None:
    """Report anchors that coincide with another one."""
    collapsed = int((spacing < COLLAPSED_SPACING).sum())
    if collapsed == 0:
        return None
    return Finding(
        f"{collapsed} of {spacing.numel()} anchors have collapsed onto another one",
        "raise `anchor_weight`, set `anchor_margin`, or reset them by `initialize_anchors`",
    )


def idle_branch(name: str, probs: Tensor) -> Finding | None:
    """Report a branch that is uniform, constant or NaN."""
    bad = int((~probs.isfinite()).any(-1).sum())
    if bad:
        return Finding(
            f"the {name} branch is NaN for {bad} of {len(probs)} samples",
            "check those inputs, and overflow in half precision",
        )
    if float(RF.confidence(probs).mean()) < UNIFORM_CONFIDENCE:
        sharpen = "lower `delta`, or " if name == "anchor" else ""
        return Finding(
            f"the {name} branch is uniform: it has no effect",
            f"{sharpen}supervise it more: {SUPERVISE}; train longer",
        )
    if len(probs) > 1 and float(probs.std(0).max()) < CONSTANT_DEVIATION:
        return Finding(
            f"the {name} branch is constant: it predicts the same for every sample",
            "check whether the embedding is constant; lower the learning rate; supervise the "
            f"branch more: {SUPERVISE}",
        )
    return None


def lagging_branch(name: str, accuracy: float, best: float) -> Finding | None:
    """Report a branch that is far less accurate than the best one."""
    if best - accuracy <= LAG:
        return None
    return Finding(
        f"the {name} branch lags: accuracy {100 * accuracy:.1f} %, best branch {100 * best:.1f} %",
        f"supervise it more: {SUPERVISE}; train longer",
    )


def harmful_correction(helped: int, harmed: int) -> Finding | None:
    """Report a correction that makes significantly more predictions wrong than right."""
    if harmed - helped <= SIGMAS_OF_HARM * math.sqrt(harmed + helped):
        return None
    return Finding(
        f"the correction harms: it made {harmed} predictions wrong and {helped} right",
        f"lower `correction_weight`; supervise the branches more: {SUPERVISE}; see the other "
        "findings",
    )


def miscalibration(probability: float, accuracy: float) -> Finding | None:
    """Report a mean probability far above or below the accuracy."""
    if abs(probability - accuracy) <= CONFIDENCE_GAP:
        return None
    side = "over" if probability > accuracy else "under"
    return Finding(
        f"the predictions are {side}confident: mean top-class probability {probability:.2f}, "
        f"accuracy {accuracy:.2f}",
        CALIBRATE,
    )


def uncovered_classes(
    covered: Tensor, counts: Tensor, coverage: float, names: Sequence[str]
) -> Finding | None:
    """Report classes that prediction sets with one threshold cover too rarely, beyond chance.

    `covered` and `counts` are samples of each class (C,); `names` of the C classes.
    """
    delta = CHANCE / len(counts)
    classes = zip(names, covered.tolist(), counts.tolist(), strict=True)
    # The upper limit of a class's coverage, by exact binomial limits for all classes together.
    low = [
        f"{name} ({100 * held / count:.0f} % of {count})"
        for name, held, count in classes
        if count and error_rate_bound(held, count, delta) < coverage - COVERAGE_GAP
    ]
    if not low:
        return None
    return Finding(
        f"prediction sets for {100 * coverage:.0f} % coverage cover classes {checks.listed(low)} "
        "too rarely",
        "use `calibration.ClassPredictionSets`, which covers each class alike",
    )


def label_noise(rate: Interval) -> Finding | None:
    """Report wrong labels, if the interval of their share excludes small ones."""
    if float(rate.low) <= NEGLIGIBLE_NOISE:
        return None
    return Finding(
        f"labels contradict confident predictions: {rate} of them are wrong, unless the model errs "
        "with confidence",
        "look at `criterion.doubtful_labels()`, or `inspect_embeddings` without a criterion; train "
        "with RobustLoss; calibrate with `noise=criterion`",
    )


def unfamiliar_inputs(unfamiliar: int, samples: int, false_alarm_rate: float) -> Finding | None:
    """Report that more inputs are unfamiliar than the rate of false alarms explains."""
    # The lower limit of their share is the upper one of the others'.
    least = 1.0 - error_rate_bound(samples - unfamiliar, samples, CHANCE)
    if least <= 2.0 * false_alarm_rate:
        return None
    return Finding(
        f"{unfamiliar} of {samples} inputs are unfamiliar, with {100 * false_alarm_rate:.0f} % "
        "expected: the data differ from those of the training",
        "look at the least familiar inputs, by `Familiarity.distance`; train on such data, or "
        "reject what `is_familiar` rejects",
    )


def unbalanced_predictions(
    predicted: Tensor, given: Tensor, samples: int, names: Sequence[str], *, balanced: bool
) -> Finding | None:
    """Report classes that are predicted far more or far less often than they are labelled.

    `predicted` and `given` are shares of the C classes, `names` their names; `balanced` says
    whether the training weighted all classes equally.
    """
    enough = predicted.maximum(given) * samples >= ENOUGH_SAMPLES
    far = (predicted > SHARE_RATIO * given) | (given > SHARE_RATIO * predicted)
    classes = (enough & far).nonzero().flatten().tolist()
    if not classes:
        return None
    listed = checks.listed(
        f"{names[index]} ({100 * float(predicted[index]):.1f} % predicted, "
        f"{100 * float(given[index]):.1f} % labelled)"
        for index in classes
    )
    balance = "train longer, or on more samples of these classes"
    balance = (
        f"the classes are weighted alike already: {balance}"
        if balanced
        else "if the training did not weight the classes alike, use `DataRefinementSampler`, or "
        f"RobustLoss with `logit_adjustment`; otherwise {balance}"
    )
    return Finding(
        f"class frequencies of predictions and labels differ: {listed}",
        f"{balance}; check whether the classes are in the order that the model was trained on",
    )
