"""What counts as wrong with a model, and what helps: one rule for each sickness."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance.calibration.branches import BranchTemperatures
from reliability_balance.calibration.top_label import TopLabelScaling
from reliability_balance.diagnosis.symptoms import Changes

# What calibrates best by `benchmarks/calibration.py`, one fitted on the answers of the other.
RECOMMENDED = (BranchTemperatures, TopLabelScaling)

# Above these a rule speaks; each is far from what healthy models show.
MISLED = 0.05  # of the samples, which the anchor branch would get right without some anchors
MISSED, FOUND = 0.1, 0.5  # of a class's samples, by the anchor branch and by another one
COLLAPSED_SPACING = 0.01  # of the anchors' spread
UNIFORM_CONFIDENCE = 0.01
CONSTANT_DEVIATION = 1e-3  # of a class's probability, from sample to sample
LAG = 0.2  # of a branch's accuracy behind the best branch's
SIGMAS_OF_HARM = 2.0
CONFIDENCE_GAP = 0.1  # between mean probability and accuracy
SHARE_RATIO, ENOUGH_SAMPLES = 5.0, 10


class Finding(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    advice: str


def non_finite(names: tuple[str, ...]) -> Finding:
    """Weights that are not numbers: nothing else can be judged."""
    more = f", … and {len(names) - 5} more" if len(names) > 5 else ""
    return Finding(
        f"NaN or infinite weights: {', '.join(names[:5])}{more}",
        "go back to a checkpoint from before; `non_finite_terms` of each batch's loss names the "
        "term it starts in; lower the learning rate or clip the gradients",
    )


def misleading_anchors(use: Tensor, without: Changes, samples: int) -> Finding | None:
    """Anchors that are the nearest of their class to no sample, but draw samples of others.

    Others that are never the nearest do no harm: a class that lies close together needs one anchor.
    """
    gain = without.helped - without.harmed
    by_chance = SIGMAS_OF_HARM * math.sqrt(without.helped + without.harmed)
    if gain <= max(by_chance, MISLED * samples):
        return None
    occurring = use[use.sum(-1) > 0]
    return Finding(
        f"{int((occurring == 0).sum())} of {occurring.numel()} anchors mislead: never the nearest "
        f"of their class, but without them the anchor branch would be right {gain} times more in "
        f"{samples}",
        "start them at the data by `initialize_anchors`, or move all of them by "
        "`ReliabilityLoss(softmin_temperature=...)`, or take fewer: `num_anchors`",
    )


def useless_anchors(recalls: dict[str, Tensor], counts: Tensor) -> Finding | None:
    """Classes that the anchor branch misses, and another branch does not.

    The recalls are (C,) for each branch, and the counts of samples (C,).
    """
    others = [recall for name, recall in recalls.items() if name != "anchor"]
    missed = (recalls["anchor"] < MISSED) & (torch.stack(others).amax(0) > FOUND)
    classes = (missed & (counts >= ENOUGH_SAMPLES)).nonzero().flatten().tolist()
    if not classes:
        return None
    told = ", ".join(map(str, classes[:5]))
    more = f", … and {len(classes) - 5} more" if len(classes) > 5 else ""
    return Finding(
        f"the anchors of classes {told}{more} are useless: the anchor branch is right in less than "
        f"{100 * MISSED:.0f} % of their samples, another branch in more than {100 * FOUND:.0f} %",
        "start them at the data by `initialize_anchors`, or supervise the anchor branch: "
        "`branch_weight` > 0 in ReliabilityLoss",
    )


def collapsed_anchors(spacing: Tensor) -> Finding | None:
    """Anchors that lie on top of another one."""
    collapsed = int((spacing < COLLAPSED_SPACING).sum())
    if collapsed == 0:
        return None
    return Finding(
        f"{collapsed} of {spacing.numel()} anchors have collapsed onto another one",
        "raise `anchor_weight`, set `anchor_margin`, or start anew by `initialize_anchors`",
    )


def idle_branch(name: str, probs: Tensor) -> Finding | None:
    """A branch that says nothing, or the same of every sample, or no number at all."""
    bad = int((~probs.isfinite()).any(-1).sum())
    if bad:
        return Finding(
            f"the {name} branch is NaN for {bad} of {len(probs)} samples",
            "look at those inputs, and for overflow in half precision",
        )
    if float(RF.confidence(probs).mean()) < UNIFORM_CONFIDENCE:
        sharpen = "lower `delta`, or " if name == "anchor" else ""
        return Finding(
            f"the {name} branch is uniform: it has no say",
            f"{sharpen}supervise it: `branch_weight` > 0 in ReliabilityLoss; train longer",
        )
    if len(probs) > 1 and float(probs.std(0).max()) < CONSTANT_DEVIATION:
        return Finding(
            f"the {name} branch is constant: it gives every sample the same answer",
            "see whether the embedding itself is constant; lower the learning rate; supervise the "
            "branch: `branch_weight` > 0 in ReliabilityLoss",
        )
    return None


def lagging_branch(name: str, accuracy: float, best: float) -> Finding | None:
    """A branch that is right far less often than the best."""
    if best - accuracy <= LAG:
        return None
    return Finding(
        f"the {name} branch lags: right in {100 * accuracy:.1f} %, the best branch in "
        f"{100 * best:.1f} %",
        "supervise it: `branch_weight` > 0 in ReliabilityLoss; train longer",
    )


def harm(helped: int, harmed: int) -> Finding | None:
    """More right answers lost than won by the correction, beyond chance."""
    if harmed - helped <= SIGMAS_OF_HARM * math.sqrt(harmed + helped):
        return None
    return Finding(
        f"the correction harms: it made {harmed} answers wrong and {helped} right",
        "lower `correction_weight`; supervise the branches: `branch_weight` > 0 in "
        "ReliabilityLoss; see the other findings",
    )


def untrue_confidence(probability: float, accuracy: float) -> Finding | None:
    """Predicted classes that are right much more, or much less, often than they are said to be."""
    if abs(probability - accuracy) <= CONFIDENCE_GAP:
        return None
    side = "over" if probability > accuracy else "under"
    told = ", then ".join(
        f"`{each.__module__.rpartition('.')[2]}.{each.__name__}`" for each in RECOMMENDED
    )
    return Finding(
        f"the predictions are {side}confident: probability {probability:.2f} on average, right "
        f"{accuracy:.2f}",
        f"fit {told} on held-out data",
    )


def unbalanced_predictions(predicted: Tensor, given: Tensor, samples: int) -> Finding | None:
    """Classes that are predicted far more, or far less, often than they are labelled."""
    enough = predicted.maximum(given) * samples >= ENOUGH_SAMPLES
    far = (predicted > SHARE_RATIO * given) | (given > SHARE_RATIO * predicted)
    classes = (enough & far).nonzero().flatten().tolist()
    if not classes:
        return None
    told = ", ".join(
        f"{index} ({100 * float(predicted[index]):.1f} % predicted, "
        f"{100 * float(given[index]):.1f} % labelled)"
        for index in classes[:5]
    )
    more = f", … and {len(classes) - 5} more" if len(classes) > 5 else ""
    return Finding(
        f"predictions and labels differ in their shares of classes {told}{more}",
        "balance the classes: `DataRefinementSampler`, or RobustLoss, which counts all alike; "
        "see whether the classes are in the order that the model was trained on",
    )
