"""Measurements of a trained model for its diagnosis, as pure functions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.calibration.conformal import conformal_quantile, lac_scores
from reliability_balance.core.losses import LossTerms
from reliability_balance.core.output import BalancerOutput

DISTANCES_AT_ONCE = 2**22  # 32 MB of them
BINS = 15  # of the calibration error


@dataclass(frozen=True)
class Changes:
    """Counts of the predictions that the correction changed, by outcome."""

    changed: int
    helped: int
    harmed: int
    still_wrong: int


def branches_of(output: BalancerOutput) -> dict[str, Tensor]:
    """Return the probabilities (N, C) of each branch that is not switched off, by name.

    Args:
        output: of N samples.
    """
    branches = {
        "primary": output.primary,
        "anchor": output.anchor,
        "attentive": output.attentive,
    }
    return {name: probs for name, probs in branches.items() if probs is not None}


def anchor_use(distances: Tensor, labels: Tensor) -> Tensor:
    """Return, for each anchor, the share of its class's samples to which it is the nearest.

    Args:
        distances: distances to every anchor.
        labels: the samples' classes.

    Shape:
        - distances: (N, C, K) floating; labels: (N,) int64 in [0, C); returns (C, K), rows that
          sum to 1, or to 0 for a class without samples.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Example:
        >>> distances = torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[9.0, 9.0], [4.0, 3.0]]])
        >>> anchor_use(distances, torch.tensor([0, 1]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    checks.floating("distances", distances)
    checks.rank("distances", distances, "(N, C, K)", 3)
    checks.indices("labels", labels)
    checks.labels(labels, distances.shape[:1], distances.shape[1])
    checks.label_values(labels, distances.shape[1])
    own = distances[torch.arange(len(labels), device=labels.device), labels]
    counts = torch.zeros(distances.shape[1:], device=labels.device)
    counts.index_put_((labels, own.argmin(-1)), torch.ones(()).to(counts), accumulate=True)
    return counts / counts.sum(-1, keepdim=True).clamp_min(1.0)


def anchor_spacing(anchors: Tensor) -> Tensor:
    """Return the distance of each anchor to its nearest neighbour, relative to their spread.

    Args:
        anchors: K anchors of each class.

    Shape:
        - anchors: (C, K, D) floating; returns (C, K), >= 0: 0 where two coincide. The spread is the
          root mean square distance to the mean anchor.

    Raises:
        TypeError: if `anchors` is not a floating tensor.
        ValueError: on a wrong shape.

    Example:
        >>> anchor_spacing(torch.tensor([[[0.0], [0.0]], [[2.0], [2.0]]]))
        tensor([[0., 0.],
                [0., 0.]])
    """
    checks.anchor_set(anchors)
    points = anchors.detach().double().flatten(0, 1)
    rows = torch.arange(len(points), device=points.device)
    blocks = rows.split(max(1, DISTANCES_AT_ONCE // len(points)))
    nearest = torch.cat([_nearest_other(points, block) for block in blocks])
    spread = (points - points.mean(0)).square().sum(-1).mean().sqrt()
    tiny = torch.finfo(spread.dtype).tiny
    spacing = nearest / spread.clamp_min(tiny)
    return spacing.float().reshape(anchors.shape[:2])


def _nearest_other(points: Tensor, rows: Tensor) -> Tensor:
    """Return the distance of each of these rows of (M, D) to the nearest other row."""
    # A matrix product would be faster, but does not give 0 for points that coincide.
    distances = torch.cdist(points[rows], points, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.scatter(-1, rows.unsqueeze(-1), torch.inf).amin(-1)


def branch_agreement(output: BalancerOutput) -> dict[str, float]:
    """Return the share of samples with the same predicted class, for each pair of branches.

    Args:
        output: of any samples.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> output = ReliabilityBalancer(8, 2, attention="off").eval()(torch.randn(4, 8))
        >>> list(branch_agreement(output))
        ['primary and anchor']
    """
    predicted = {name: probs.argmax(-1) for name, probs in branches_of(output).items()}
    names = list(predicted)
    return {
        f"{first} and {second}": float((predicted[first] == predicted[second]).float().mean())
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    }


def count_changes(output: BalancerOutput, labels: Tensor) -> Changes:
    """Count the predictions that the correction changed, by outcome.

    Args:
        output: of N samples.
        labels: their classes.

    Shape:
        - labels: (N,) int64.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on a wrong shape.
    """
    checks.indices("labels", labels)
    checks.labels(labels, output.changed.shape, output.corrected.shape[-1])
    return _compare(output.primary.argmax(-1), output.corrected.argmax(-1), labels, output.changed)


def count_changes_without(distances: Tensor, labels: Tensor, delta: float) -> Changes:
    """Count how the anchor branch's predictions would change without the unused anchors.

    Unused anchors are the nearest of their class for none of its samples. The anchors of a class
    without samples are kept.

    Args:
        distances: distances to every anchor.
        labels: the samples' classes.
        delta: softness of Eq. 13, > 0.

    Shape:
        - distances: (N, C, K) floating; labels: (N,) int64 in [0, C).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Example:
        >>> distances = torch.tensor([[[1.0, 9.0], [2.0, 2.0]], [[9.0, 0.1], [1.0, 1.1]]])
        >>> count_changes_without(distances, torch.tensor([0, 1]), delta=1.0)
        Changes(changed=1, helped=1, harmed=0, still_wrong=0)
    """
    use = anchor_use(distances, labels)
    unused = (use == 0) & (use.sum(-1, keepdim=True) > 0)
    before = RF.anchor_log_correction(distances, delta).argmax(-1)
    kept = distances.masked_fill(unused, torch.inf)
    after = RF.anchor_log_correction(kept, delta).argmax(-1)
    return _compare(before, after, labels, before != after)


def _compare(before: Tensor, after: Tensor, labels: Tensor, changed: Tensor) -> Changes:
    """Count changes between two predictions (N,) by outcome."""
    was_right, is_right = before == labels, after == labels
    return Changes(
        changed=int(changed.sum()),
        helped=int((~was_right & is_right).sum()),
        harmed=int((was_right & ~is_right).sum()),
        still_wrong=int((changed & ~was_right & ~is_right).sum()),
    )


def recalls(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the recall of each class, (C,); 0 for a class without samples.

    Args:
        predicted: classes (N,).
        labels: the samples' classes (N,).
        num_classes: C.

    Example:
        >>> recalls(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
        tensor([0.5000, 1.0000, 0.0000])
    """
    right = labels[predicted == labels].bincount(minlength=num_classes)
    return right / labels.bincount(minlength=num_classes).clamp_min(1)


def expected_calibration_error(probs: Tensor, labels: Tensor) -> float:
    r"""Return the expected calibration error (ECE) of the predicted classes, in 15 equal bins.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} \,
        | \mathrm{accuracy}_b - \mathrm{mean\ probability}_b |

    Args:
        probs: class probabilities (N, C).
        labels: the samples' classes (N,).

    Example:
        >>> probs = torch.tensor([[0.9, 0.1]] * 10)
        >>> round(expected_calibration_error(probs, torch.tensor([0] * 7 + [1] * 3)), 2)
        0.2
    """
    top, predicted = probs.double().max(-1)
    places = (top * BINS).long().clamp(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64, device=probs.device)
    gaps.index_add_(0, places, (predicted == labels).double() - top)
    return float(gaps.abs().sum() / max(1, len(labels)))


def class_coverage(log_probs: Tensor, labels: Tensor, coverage: float) -> tuple[Tensor, Tensor]:
    """Return how many samples of each class prediction sets contain, and how many there are.

    Sets with one threshold for all classes are fitted on every other sample and counted on the
    rest, and the other way round.

    Args:
        log_probs: log-probabilities.
        labels: the samples' classes.
        coverage: probability with which a set contains the true class, in (0, 1).

    Shape:
        - log_probs: (N, C) floating; labels: (N,) int64; returns two (C,) int64.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log().repeat(50, 1)
        >>> class_coverage(log_probs, torch.tensor([0, 1]).repeat(50), 0.9)
        (tensor([50, 50]), tensor([50, 50]))
    """
    num_classes = log_probs.shape[-1]
    scores = lac_scores(log_probs)
    own = scores.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    generator = torch.Generator().manual_seed(0)
    halves = torch.randperm(len(labels), generator=generator).tensor_split(2)
    covered = torch.zeros_like(own, dtype=torch.bool)
    for fitted, counted in (halves, halves[::-1]):
        covered[counted] = own[counted] <= conformal_quantile(own[fitted], coverage)
    return (
        labels[covered].bincount(minlength=num_classes),
        labels.bincount(minlength=num_classes),
    )


def class_shares(labels: Tensor, num_classes: int) -> Tensor:
    """Return the share of each class in (N,) labels or predictions, (C,).

    Args:
        labels: class indices.
        num_classes: C.
    """
    return labels.bincount(minlength=num_classes).float() / max(1, len(labels))


def non_finite_terms(terms: LossTerms) -> tuple[str, ...]:
    """Return the names of loss terms that are NaN or infinite; the total only if no other is.

    Args:
        terms: terms of :class:`ReliabilityLoss` for a batch.

    Example:
        >>> one, nan = torch.tensor(1.0), torch.tensor(float("nan"))
        >>> non_finite_terms(LossTerms(nan, one, one, nan, one))
        ('center',)
    """
    bad = [name for name, term in terms._asdict().items() if not bool(torch.isfinite(term).all())]
    return tuple(name for name in bad if name != "total") or tuple(bad)


def non_finite_parameters(model: nn.Module) -> tuple[str, ...]:
    """Return the names of parameters with NaN or infinite values, and of buffers with NaN.

    Args:
        model: any module. An infinity in a buffer may be intended, as in a mask.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.constant_(layer.bias, float("inf"))
        >>> non_finite_parameters(layer)
        ('bias',)
    """
    bad = [name for name, each in model.named_parameters() if not bool(each.isfinite().all())]
    bad += [name for name, each in model.named_buffers() if bool(each.isnan().any())]
    return tuple(bad)
