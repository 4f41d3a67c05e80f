"""Check that predictions agree with the labels; if not, doubts about labels are random."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from reliability_balance.labels.posterior import as_probabilities, class_frequencies
from reliability_balance.labels.rows import blocks
from reliability_balance.labels.targets import RefurbishedTargets

# Cohen's kappa of predictions and labels. It was up to 0.03 for networks trained on noise images,
# which memorized some labels, and 0.16 on digits with 70 % wrong labels.
SMALLEST_KAPPA = 0.05
STANDARD_ERRORS = 3.0
# Phi coefficient of predictions and labels of two classes that are hardly told apart. It was up to
# 0.15 for classes of equal embeddings, and 0.3 on digits with 45 % of labels those of the next
# class. Fewer labels of a class do not suffice to measure it.
SMALLEST_PHI, FEWEST_LABELS = 0.2, 50
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
    kappa, error = targets.agreement.tolist()
    if error < 0:  # not measured by `inspect_embeddings`
        kappa, error = agreement(targets, seen, labels)
    if beats_chance(kappa, error, standard_errors):
        return ""
    return (
        f"predictions are not yet certain to agree with the {len(seen)} {what} better than class "
        f"frequencies do (kappa {kappa:.3f}, standard error {error:.3f}; at least {SMALLEST_KAPPA} "
        f"and {standard_errors:g} standard errors are needed): {remedy}"
    )


def beats_chance(kappa: float, error: float, standard_errors: float = STANDARD_ERRORS) -> bool:
    """Return whether Cohen's kappa, with this standard error, is significant and large enough."""
    return kappa >= max(SMALLEST_KAPPA, standard_errors * error)


def agreement(targets: RefurbishedTargets, seen: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return Cohen's kappa of the beliefs about samples and their labels, and its standard error.

    Args:
        targets: targets during or after training.
        seen: indices (M,) of the samples.
        labels: their labels, (M,), (M, C), or of annotators (M, A).
    """
    frequencies = class_frequencies(labels, targets.num_classes)
    return chance_corrected(_in_blocks(targets, seen, labels), frequencies)


def _in_blocks(
    targets: RefurbishedTargets, index: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield beliefs and labels of these samples as probabilities, both (B, C)."""
    for rows in blocks(torch.arange(len(index), device=index.device), targets.num_classes):
        beliefs = targets.beliefs(index[rows])
        yield beliefs, as_probabilities(labels[rows], beliefs)


def confused_pairs(targets: RefurbishedTargets, labels: Tensor) -> list[tuple[int, int]]:
    """Return pairs of classes that out-of-sample predictions hardly tell apart.

    Judged by the phi coefficient of prediction and label, of the samples that have both in the
    pair. Pairs with fewer than 50 such labels of one of the classes are not judged.

    Args:
        targets: targets after training.
        labels: all N labels.
    """
    num_classes, classes = targets.num_classes, targets.out_of_sample.classes
    known = (classes >= 0).nonzero().squeeze(-1)
    counts = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=known.device)
    used, predicted = labels.to(known.device)[known], classes[known].long()
    like = counts.new_empty(0, num_classes)
    for rows in blocks(torch.arange(len(known), device=known.device), num_classes):
        counts.index_add_(0, predicted[rows], as_probabilities(used[rows], like))
    # Of each pair, as a table of two by two: right for the one and the other, and both confusions.
    one, other, confused = counts.diagonal().unsqueeze(1), counts.diagonal(), counts * counts.T
    labels_of, predictions_of = one + counts.T, one + counts
    spread = (labels_of * labels_of.T * predictions_of * predictions_of.T).sqrt()
    phi = (one * other - confused) / spread.clamp_min(1.0)
    enough = labels_of.minimum(labels_of.T) >= FEWEST_LABELS
    pairs = ((phi < SMALLEST_PHI) & enough).triu(1)
    return [(first, second) for first, second in pairs.nonzero().tolist()]


def chance_corrected(
    rows: Iterable[tuple[Tensor, Tensor]], frequencies: Tensor
) -> tuple[float, float]:
    """Return Cohen's kappa of beliefs and labels, and its standard error over the samples.

    Agreement is the predicted probability of the label; chance agreement is that of a label drawn
    by class frequency.

    Args:
        rows: blocks of beliefs and labels, both (B, C).
        frequencies: mean label (C,) of all blocks.
    """
    excesses, chances = [], []
    for beliefs, given in rows:
        by_chance = beliefs.double() @ frequencies.double()
        excesses.append((beliefs.double() * given.double()).sum(-1) - by_chance)
        chances.append(by_chance)
    excess, by_chance = torch.cat(excesses), torch.cat(chances)
    scale = (1.0 - by_chance.mean()).clamp_min(torch.finfo(torch.float32).eps)
    error = excess.std(correction=0) / len(excess) ** 0.5
    return float(excess.mean() / scale), float(error / scale)
