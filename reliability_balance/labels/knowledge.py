"""Whether beliefs know anything of the labels; if not, their doubts accuse at random."""

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance.labels.posterior import as_probabilities
from reliability_balance.labels.targets import RefurbishedTargets

# Cohen's kappa of beliefs and labels. Networks that saw noise for images, and remembered some of
# their labels, had up to .03; digits with 70 % wrong labels .16.
SMALLEST_KAPPA = 0.05
STANDARD_ERRORS = 3.0
# A control group of fewer samples is too small to tell; then all samples are compared.
SMALLEST_CONTROL = 30


def caution(targets: RefurbishedTargets, seen: Tensor, labels: Tensor) -> str:
    """Say why the doubts of these targets are no ground for a verdict; nothing if they are.

    Args:
        targets: after training.
        seen: the samples (M,).
        labels: theirs, (M,), (M, C), or of annotators (M, A).
    """
    most = int(targets.updates.max())
    if most <= targets.held_for:
        return (
            f"samples were seen at most {most} times, and noise is counted from the "
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
    """Say that beliefs tell nothing of the labels, and by what; nothing if they do.

    Beliefs are compared with what class frequencies alone would have: on the control group where
    there is one, and else on all samples, whose labels a network may remember. Memory makes beliefs
    agree with the labels, so it hides a model that knows nothing, but leaves little to doubt.

    Args:
        targets: of a training.
        seen: the samples (M,).
        labels: theirs, (M,), (M, C), or of annotators (M, A), whose vote shares are compared.
        standard_errors: by how many of them kappa must be above zero.
    """
    what = "labels"
    if targets.memorization is not None:
        control = targets.memorization.control[seen]
        if int(control.sum()) >= SMALLEST_CONTROL:
            seen, labels, what = seen[control], labels[control], "held-back labels"
    beliefs = targets.beliefs(seen)
    kappa, error = chance_corrected(beliefs, as_probabilities(labels, beliefs))
    if kappa >= max(SMALLEST_KAPPA, standard_errors * error):
        return ""
    return (
        f"beliefs agree with the {len(seen)} {what} hardly better than class frequencies do (kappa "
        f"{kappa:.3f}, standard error {error:.3f}; at least {SMALLEST_KAPPA} and "
        f"{standard_errors:g} standard errors are needed): train a better model, or on more samples"
    )


def chance_corrected(beliefs: Tensor, given: Tensor) -> tuple[float, float]:
    """Cohen's kappa of beliefs and labels, both (M, C), and its standard error over samples.

    Agreement is the belief in the label. By chance it is that in a label drawn by class frequency.
    """
    beliefs, given = RF.widen(beliefs).double(), given.double()
    by_chance = beliefs @ given.mean(0)
    excess = (beliefs * given).sum(-1) - by_chance
    scale = (1.0 - by_chance.mean()).clamp_min(torch.finfo(torch.float32).eps)
    error = excess.std(correction=0) / len(excess) ** 0.5
    return float(excess.mean() / scale), float(error / scale)
