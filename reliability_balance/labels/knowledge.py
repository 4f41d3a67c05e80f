"""Check that predictions agree with the labels; if not, doubts about labels are random."""

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance.labels.posterior import as_probabilities
from reliability_balance.labels.targets import RefurbishedTargets

# Cohen's kappa of predictions and labels. It was up to 0.03 for networks trained on noise images,
# which memorized some labels, and 0.16 on digits with 70 % wrong labels.
SMALLEST_KAPPA = 0.05
STANDARD_ERRORS = 3.0
# With a smaller control group, all samples are compared.
SMALLEST_CONTROL = 30


def caution(targets: RefurbishedTargets, seen: Tensor, labels: Tensor) -> str:
    """Return why these targets do not justify verdicts on labels; empty if they do.

    Args:
        targets: targets after training.
        seen: indices (M,) of the samples.
        labels: their labels, (M,), (M, C), or of annotators (M, A).
    """
    most = int(targets.updates.max())
    if most <= targets.held_for:
        return (
            f"samples were seen at most {most} times, and noise is estimated from the "
            f"{targets.held_for + 1}th time on: train for longer, or plan for fewer epochs"
        )
    return ignorance(targets, seen, labels)


def ignorance(
    targets: RefurbishedTargets,
    seen: Tensor,
    labels: Tensor,
    *,
    standard_errors: float = STANDARD_ERRORS,
) -> str:
    """Return a message unless predictions agree with the labels better than chance; else empty.

    Agreement is measured on the control group if there is one, and otherwise on all samples, whose
    labels a network may have memorized. Memorization inflates the agreement and can hide a model
    that has learned nothing; but such a model doubts few labels.

    Args:
        targets: targets during or after training.
        seen: indices (M,) of the samples.
        labels: their labels, (M,), (M, C), or of annotators (M, A), compared by their vote shares.
        standard_errors: kappa must be at least this many standard errors.
    """
    what, remedy = "labels", "train a better model, or on more samples"
    if targets.memorization is not None:
        control = targets.memorization.control[seen]
        if int(control.sum()) >= SMALLEST_CONTROL:
            seen, labels, what = seen[control], labels[control], "held-back labels"
            remedy += ", or with a larger `held_back` in the recipe"
    beliefs = targets.beliefs(seen)
    kappa, error = chance_corrected(beliefs, as_probabilities(labels, beliefs))
    if kappa >= max(SMALLEST_KAPPA, standard_errors * error):
        return ""
    return (
        f"predictions are not yet certain to agree with the {len(seen)} {what} better than class "
        f"frequencies do (kappa {kappa:.3f}, standard error {error:.3f}; at least {SMALLEST_KAPPA} "
        f"and {standard_errors:g} standard errors are needed): {remedy}"
    )


def chance_corrected(beliefs: Tensor, given: Tensor) -> tuple[float, float]:
    """Return Cohen's kappa of beliefs and labels, both (M, C), and its standard error over samples.

    Agreement is the predicted probability of the label; chance agreement is that of a label drawn
    by class frequency.
    """
    beliefs, given = RF.widen(beliefs).double(), given.double()
    by_chance = beliefs @ given.mean(0)
    excess = (beliefs * given).sum(-1) - by_chance
    scale = (1.0 - by_chance.mean()).clamp_min(torch.finfo(torch.float32).eps)
    error = excess.std(correction=0) / len(excess) ** 0.5
    return float(excess.mean() / scale), float(error / scale)
