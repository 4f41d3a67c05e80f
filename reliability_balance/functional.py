r"""The equations of reliability balancing, one pure function each.

Symbols: ``...`` any leading dimensions, C classes, K anchors per class, D embedding width.
Equation numbers refer to ARBEx (Wasi et al., 2023, https://arxiv.org/abs/2305.01486).

All functions accept any floating dtype. Half precision is computed and returned in float32, also
under autocast; float32 and float64 are kept.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance.numerics import widen, without_autocast

__all__ = [
    "anchor_correction",
    "anchor_distances",
    "anchor_log_correction",
    "anchor_loss",
    "anchor_similarities",
    "center_loss",
    "confidence",
    "disagreement",
    "fuse",
    "fusion_weight",
    "log_fuse",
    "nearest_anchor_loss",
    "normalized_entropy",
    "unit_length",
]

Metric = Literal["euclidean", "cosine"]
Reduction = Literal["mean", "sum", "none"]

METRICS: tuple[Metric, ...] = ("euclidean", "cosine")
ANCHOR_BLOCK = 1024
SHORTEST = 1e-6  # lower bound of the norm that vectors are divided by


def unit_length(vectors: Tensor) -> Tensor:
    """Normalise vectors to unit length.

    Args:
        vectors: any; a norm below 1e-6 is clamped to it, with gradient 0.

    Shape:
        - vectors: (..., D) floating; returns (..., D).

    Raises:
        TypeError: if `vectors` is not floating.

    Differs from paper: not in it; the cosine metric of Eq. 12 needs it.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    checks.floating("vectors", vectors)
    vectors = widen(vectors)
    if torch.is_grad_enabled():
        # Below the clamp the gradient would be 1e6, which overflows float16.
        short = torch.linalg.vector_norm(vectors.detach(), dim=-1, keepdim=True) < SHORTEST
        vectors = torch.where(short, vectors.detach(), vectors)
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.clamp_min(SHORTEST)


def normalized_entropy(probs: Tensor) -> Tensor:
    r"""Return each distribution's entropy divided by its maximum, log C (Eq. 11).

    .. math:: H(l) = -\frac{1}{\log C} \sum_i l^i \log l^i

    Args:
        probs: probabilities over the last dimension.

    Shape:
        - probs: (..., C) floating, C >= 2; returns (...) in [0, 1].

    Raises:
        TypeError: if `probs` is not a floating tensor.
        ValueError: if it has fewer than two classes.

    Differs from paper: the divisor is log C, not the printed N, because the text requires 1 for a
    uniform distribution. 0 log 0 is 0, with a finite gradient.

    Example:
        >>> normalized_entropy(torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
        tensor([1.0000, 0.8113])
    """
    checks.distributions("probs", probs)
    probs = widen(probs)
    return _normalized_entropy(probs, probs.clamp_min(torch.finfo(probs.dtype).tiny).log())


def _normalized_entropy(probs: Tensor, log_probs: Tensor, dim: int = -1) -> Tensor:
    """Compute Eq. 11 over `dim` from probabilities and their finite logarithms."""
    entropy = (probs * log_probs).sum(dim) / -math.log(probs.shape[dim])
    return entropy.clamp(0.0, 1.0)


def confidence(probs: Tensor) -> Tensor:
    """Return one minus the normalised entropy of each distribution (Eq. 10).

    Args:
        probs: probabilities over the last dimension.

    Shape:
        - probs: (..., C) floating, C >= 2; returns (...) in [0, 1]: 0 if uniform, 1 if one-hot.

    Raises:
        TypeError: if `probs` is not a floating tensor.
        ValueError: if it has fewer than two classes.

    Example:
        >>> confidence(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]]))
        tensor([0., 1.])
    """
    return 1.0 - normalized_entropy(probs)


def anchor_distances(
    embedding: Tensor,
    anchors: Tensor,
    *,
    metric: Metric = "euclidean",
    validate_args: bool = True,
) -> Tensor:
    r"""Compute the distance of each embedding to each anchor (Eq. 12).

    .. math:: d(e, a) = \sqrt{\sum_{dim} |a - e|^2}

    Args:
        embedding: embeddings.
        anchors: K anchors of each class.
        metric: "euclidean" (paper), or "cosine": the Euclidean distance of unit vectors, in [0, 2].
        validate_args: check for non-finite values, which synchronizes with the device.

    Shape:
        - embedding: (..., D) floating; anchors: (C, K, D) floating; returns (..., C, K), >= 0.

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: on a wrong rank or width, an unknown metric, or non-finite embeddings.

    Differs from paper: at zero distance the gradient is 0, not infinite, and the value is below
    1e-9. Computed by matrix products on centred points, one block of anchors at a time, without a
    (B, C, K, D) tensor.

    Example:
        >>> anchors = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
        >>> anchor_distances(torch.tensor([[0.0, 8.0]]), anchors).flatten()
        tensor([8., 5.])
    """
    checks.floating("embedding", embedding)
    checks.anchor_set(anchors)
    checks.width("embedding", embedding, anchors.shape[-1])
    checks.one_of("metric", metric, METRICS)
    if validate_args:
        checks.finite("embedding", embedding)
    scale = unit_length if metric == "cosine" else widen
    points = scale(widen(embedding, anchors))
    # A block of anchors fits in the CPU cache, a copy of all of them does not.
    blocks = _blocks(widen(anchors, embedding).flatten(0, 1), ANCHOR_BLOCK)
    # Distances are invariant to translation; centred coordinates lose less to cancellation.
    center = scale(blocks[0]).detach().mean(0)
    rows = (points - center).reshape(-1, points.shape[-1])
    parts = (_distances(scale(block) - center, rows) for block in blocks)
    if len(blocks) == 1 or torch.is_grad_enabled():
        distances = _joined(list(parts))
    else:  # write into place: the parts together are as large as the result
        distances = rows.new_empty(anchors.shape[:2].numel(), len(rows))
        for place, part in zip(distances.split(ANCHOR_BLOCK), parts, strict=True):
            place.copy_(part)
    # Classes stay first in memory, see :func:`_classes_first`.
    by_class = distances.reshape(*anchors.shape[:2], *embedding.shape[:-1])
    return by_class.movedim((0, 1), (-2, -1))


def _classes_first(distances: Tensor) -> Tensor:
    """View (..., C, K) as (C, K, ...), so that sums over few classes or anchors are vectorized."""
    return distances.movedim((-2, -1), (0, 1))


def _distances(anchors: Tensor, points: Tensor) -> Tensor:
    """Return the distances (M, B) of (M, D) to (B, D), by |x|^2 + |y|^2 - 2 x.y."""
    norms = torch.linalg.vector_norm(anchors, dim=-1, keepdim=True).square()
    with without_autocast(points):
        squared = torch.addmm(norms, anchors, points.T, alpha=-2)
    # The floor keeps the gradient of the square root finite; below it the gradient is 0. Elsewhere
    # in place: the (M, B) matrix is by far the largest tensor.
    floor = torch.finfo(squared.dtype).tiny ** 0.5
    return squared.add_(points.square().sum(-1)).clamp_min(floor).sqrt_()


def _blocks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Split (M, ...) into blocks of `size` rows; a single block is the tensor itself."""
    return (rows,) if len(rows) <= size else rows.split(size)


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenate (M, ...) tensors; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def anchor_similarities(distances: Tensor, delta: float = 1.0) -> Tensor:
    r"""Return the softmax of the negative distances over all anchors (Eq. 13).

    .. math:: s^{ij}(e) = \frac{\exp(-d^{ij} / \delta)}{\sum_{kl} \exp(-d^{kl} / \delta)}

    where d^{ij} is the distance of e to anchor j of class i.

    Args:
        distances: distances to every anchor.
        delta: softmax temperature, in the unit of the distances, > 0.

    Shape:
        - distances: (..., C, K) floating; returns (..., C, K), summing to 1 over C and K.

    Raises:
        TypeError: if `distances` is not a floating tensor.
        ValueError: if it has fewer than two dimensions, or delta <= 0.

    Example:
        >>> anchor_similarities(torch.zeros(1, 2, 2))
        tensor([[[0.2500, 0.2500],
                 [0.2500, 0.2500]]])
    """
    _check_distances(distances)
    checks.positive("delta", delta)
    scaled = _classes_first(widen(distances)) / -delta
    shares = scaled.flatten(0, 1).softmax(0).reshape(scaled.shape)
    return shares.movedim((0, 1), (-2, -1))


def anchor_correction(similarities: Tensor) -> Tensor:
    r"""Sum the anchor similarities of each class to a label distribution (Eq. 14).

    .. math:: t_g(e) = \sum_{ij} s^{ij}(e) \, m^{ij}

    where m^{ij} is one-hot at class i.

    Args:
        similarities: from :func:`anchor_similarities`.

    Shape:
        - similarities: (..., C, K) floating; returns (..., C).

    Raises:
        TypeError: if `similarities` is not a floating tensor.
        ValueError: if it has fewer than two dimensions.

    Example:
        >>> anchor_correction(torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]))
        tensor([[0.3000, 0.7000]])
    """
    _check_distances(similarities, "similarities")
    return widen(similarities).sum(-1)


def anchor_log_correction(distances: Tensor, delta: float = 1.0) -> Tensor:
    """Compute the logarithm of Eq. 13 and 14 together, exact where probabilities underflow.

    Args:
        distances: distances to every anchor.
        delta: softmax temperature, in the unit of the distances, > 0.

    Shape:
        - distances: (..., C, K) floating; returns (..., C), log-probabilities.

    Raises:
        TypeError: if `distances` is not a floating tensor.
        ValueError: if it has fewer than two dimensions, or delta <= 0.

    Example:
        >>> anchor_log_correction(torch.zeros(1, 2, 3)).exp()
        tensor([[0.5000, 0.5000]])
    """
    _check_distances(distances)
    checks.positive("delta", delta)
    scaled = _classes_first(widen(distances)) / -delta
    return scaled.logsumexp(1).log_softmax(0).movedim(0, -1)


def _check_distances(distances: Tensor, name: str = "distances") -> None:
    checks.floating(name, distances)
    if distances.ndim < 2:
        raise ValueError(f"`{name}` must have shape (..., C, K); got {tuple(distances.shape)}")


def fusion_weight(first: Tensor, second: Tensor, *, second_weight: float = 1.0) -> Tensor:
    r"""Return the weight w of the first distribution in Eq. 18 and 19; the second has 1 - w.

    .. math:: w = \frac{c_1}{c_1 + \lambda c_2}

    where c are the confidences of the two and lambda is `second_weight`.

    Args:
        first: probabilities.
        second: probabilities.
        second_weight: factor on the second confidence, >= 0; 1 in the paper.

    Shape:
        - first, second: (..., C) floating, C >= 2; returns (...) in [0, 1].

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: on fewer than two classes, different shapes, or second_weight < 0.

    Differs from paper: two uniform distributions (0/0) get equal weights and a finite gradient.

    Example:
        >>> uniform, one_hot = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
        >>> fusion_weight(one_hot, one_hot), fusion_weight(uniform, uniform)
        (tensor(0.5000), tensor(0.5000))
        >>> fusion_weight(one_hot, uniform)
        tensor(1.0000)
    """
    both = _stack_pair(first, second)
    return _log_shares(confidence(both.movedim(1, -1)), second_weight).softmax(0)[0]


def fuse(first: Tensor, second: Tensor, *, second_weight: float = 1.0) -> Tensor:
    r"""Return the confidence-weighted mean of two label distributions (Eq. 18 and 19).

    .. math:: t = \frac{c_g}{c_g + c_a} t_g + \frac{c_a}{c_g + c_a} t_a

    Args:
        first: probabilities.
        second: probabilities.
        second_weight: factor on the second confidence, >= 0; 1 in the paper.

    Shape:
        - first, second: (..., C) floating, C >= 2; returns (..., C).

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: on fewer than two classes, different shapes, or second_weight < 0.

    Example:
        >>> fuse(torch.tensor([0.8, 0.2]), torch.tensor([0.2, 0.8]))
        tensor([0.5000, 0.5000])
    """
    both = _stack_pair(first, second)
    weights = _log_shares(confidence(both.movedim(1, -1)), second_weight).softmax(0)
    return (weights.unsqueeze(1) * both).sum(0).movedim(0, -1)


def log_fuse(first: Tensor, second: Tensor, *, second_weight: float = 1.0) -> Tensor:
    """Compute the logarithm of :func:`fuse`, exact where probabilities underflow.

    Args:
        first: log-probabilities.
        second: log-probabilities.
        second_weight: factor on the second confidence, >= 0; 1 in the paper.

    Shape:
        - first, second: (..., C) floating, C >= 2; returns (..., C), log-probabilities.

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: on fewer than two classes, different shapes, or second_weight < 0.

    Example:
        >>> far = torch.tensor([0.0, -20000.0])
        >>> log_fuse(far, far)
        tensor([     0., -20000.])
    """
    both = _stack_pair(first, second)
    finite = both.clamp_min(math.log(torch.finfo(both.dtype).tiny))
    confidences = 1.0 - _normalized_entropy(both.exp(), finite, 1)
    log_weights = _log_shares(confidences, second_weight).log_softmax(0)
    return (log_weights.unsqueeze(1) + both).logsumexp(0).movedim(0, -1)


def _log_shares(confidences: Tensor, second_weight: float) -> Tensor:
    """Return the logits (2, ...) of the two fusion weights."""
    checks.non_negative("second_weight", second_weight)
    if second_weight != 1.0:
        first, second = confidences
        confidences = torch.stack([first, second * second_weight])
    return (confidences + torch.finfo(confidences.dtype).eps).log()


def _stack_pair(first: Tensor, second: Tensor) -> Tensor:
    """Stack both distributions to (2, C, ...), which halves the number of small operations."""
    checks.distributions("first", first)
    checks.distributions("second", second)
    if first.shape != second.shape:
        raise ValueError(
            f"`second` must have the shape of `first`, {tuple(first.shape)}; "
            f"got {tuple(second.shape)}"
        )
    pair = widen(first, second), widen(second, first)
    return torch.stack([each.movedim(-1, 0) for each in pair])


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the mean Jensen-Shannon divergence of two predictions of the same samples.

    .. math:: \tfrac{1}{2} KL(p \| m) + \tfrac{1}{2} KL(q \| m), \quad m = \tfrac{1}{2} (p + q)

    Args:
        first: log-probabilities p.
        second: log-probabilities q.

    Shape:
        - first, second: (B, C) floating, C >= 2; returns (), the mean over samples, in [0, log 2].

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: on fewer than two classes, or different shapes.

    Differs from paper: not in it. Consistency loss between two views of a sample, as in Liu et al.,
    2022 (https://arxiv.org/abs/2202.14026).

    Example:
        >>> certain = torch.tensor([[0.0, -200.0]])
        >>> disagreement(certain, certain.flip(-1))
        tensor(0.6931)
    """
    both = _stack_pair(first, second)
    middle = both.logsumexp(0) - math.log(2.0)
    # A class at minus infinity contributes 0, but 0 times infinity would be NaN.
    ratio = (both - middle).where(both > -torch.inf, 0.0)
    return (both.exp() * ratio).sum(1).mean()


def anchor_loss(
    anchors: Tensor,
    *,
    margin: float | None = None,
    same_class: bool = True,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    r"""Return the negative squared distance over all pairs of anchors (Eq. 21).

    .. math:: L_a = -\sum_{ij} \sum_{kl} |a^{ij} - a^{kl}|_2^2
        = -2M \sum_{ij} |a^{ij}|^2 + 2 |\sum_{ij} a^{ij}|^2

    where M = C K. The right side is computed, on centred anchors: O(M D) instead of O(M^2 D).

    Args:
        anchors: K anchors of each class.
        margin: None: no lower bound, as in the paper. Otherwise a distance > 0: the loss is
            max(0, margin^2 - mean squared distance of two anchors).
        same_class: include pairs of the same class; True in the paper.
        reduction: "sum" is the printed equation, "mean" divides it by the number of pairs.

    Shape:
        - anchors: (C, K, D) floating; returns ().

    Raises:
        TypeError: if `anchors` is not a floating tensor.
        ValueError: on a wrong shape, margin <= 0 or with reduction="sum", or an unknown reduction.

    Differs from paper: not with reduction="sum"; the paper's normalisation is not specified.

    Example:
        >>> anchor_loss(torch.tensor([[[0.0]], [[3.0]]]), reduction="sum")
        tensor(-18.)
    """
    checks.anchor_set(anchors)
    checks.one_of("reduction", reduction, ("mean", "sum"))
    if margin is not None:
        checks.positive("margin", margin)
        if reduction != "mean":
            raise ValueError(f"`margin` needs reduction='mean'; got reduction={reduction!r}")
    num_classes, num_anchors, _ = anchors.shape
    pairs = (num_classes * num_anchors) ** 2
    if not same_class:
        pairs -= num_classes * num_anchors**2
    total = _sum_of_squared_distances(widen(anchors), same_class)
    if margin is None:
        return total * -2 if reduction == "sum" else total * (-2 / pairs)
    # Zero distances of anchors to themselves do not count towards the margin.
    others = pairs - num_classes * num_anchors if same_class else pairs
    return (margin**2 - total * (2 / others)).clamp_min(0.0)


def _sum_of_squared_distances(anchors: Tensor, same_class: bool) -> Tensor:
    """Sum over all unordered pairs of (C, K, D), or only over those of different classes.

    For M points this is M times the sum of their squared distances to the mean.
    """
    num_classes, num_anchors, _ = anchors.shape
    total = _spread(anchors, anchors.mean((0, 1))) * (num_classes * num_anchors)
    if same_class:
        return total
    return total - _spread(anchors, anchors.mean(1, keepdim=True)) * num_anchors


def _spread(anchors: Tensor, centers: Tensor) -> Tensor:
    """Sum the squared distances of (C, K, D) to centers, by blocks that fit in the CPU cache."""
    size = max(1, ANCHOR_BLOCK // anchors.shape[1])
    pairs = zip(_blocks(anchors, size), _blocks(centers.expand_as(anchors), size), strict=True)
    parts = [(block - center).square().sum() for block, center in pairs]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def center_loss(
    embedding: Tensor,
    anchors: Tensor,
    labels: Tensor,
    *,
    metric: Metric = "euclidean",
    softmin_temperature: float | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    validate_args: bool = True,
) -> Tensor:
    r"""Return the squared distance of each embedding to the nearest anchor of its class (Eq. 22).

    .. math:: L_c = \min_k |x^i - a^{y^i k}|_2^2

    Args:
        embedding: embeddings.
        anchors: K anchors of each class.
        labels: class indices, or class probabilities, which weight the minima of the classes.
        metric: as in :func:`anchor_distances`.
        softmin_temperature: None: the minimum, as in the paper, whose gradient reaches one anchor
            only. Otherwise > 0, in squared distance: a soft minimum, whose gradient reaches all.
        ignore_index: samples with this index label are ignored.
        reduction: "mean" over the samples that are not ignored, "sum", or "none".
        validate_args: check values, which synchronizes with the device.

    Shape:
        - embedding: (..., D) floating; anchors: (C, K, D); labels: (...) int64 in [0, C) or
          (..., C) floating; returns () or, with "none", (...).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes, labels out of range, non-finite embeddings, an unknown
            metric or reduction, or softmin_temperature <= 0.

    Differs from paper: not with the defaults; the paper leaves the mean over samples implicit.

    Example:
        >>> anchors = torch.tensor([[[0.0], [1.0]], [[5.0], [6.0]]])
        >>> center_loss(torch.tensor([[3.0]]), anchors, torch.tensor([0])).round(decimals=4)
        tensor(4.)
    """
    distances = anchor_distances(embedding, anchors, metric=metric, validate_args=validate_args)
    return nearest_anchor_loss(
        distances,
        labels,
        softmin_temperature=softmin_temperature,
        ignore_index=ignore_index,
        reduction=reduction,
        validate_args=validate_args,
    )


def nearest_anchor_loss(
    distances: Tensor,
    labels: Tensor,
    *,
    softmin_temperature: float | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    validate_args: bool = True,
) -> Tensor:
    """Compute Eq. 22 from given distances; see :func:`center_loss`.

    Args:
        distances: distances to every anchor, from :func:`anchor_distances`.
        labels: class indices or class probabilities.
        softmin_temperature: None: the minimum; > 0: a soft minimum.
        ignore_index: samples with this index label are ignored.
        reduction: "mean", "sum" or "none".
        validate_args: check the values of the labels.

    Shape:
        - distances: (..., C, K) floating; labels: (...) int64 or (..., C) floating; returns () or
          (...).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Example:
        >>> nearest_anchor_loss(torch.tensor([[[3.0, 2.0], [9.0, 9.0]]]), torch.tensor([0]))
        tensor(4.)
    """
    _check_distances(distances)
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    if softmin_temperature is not None:
        checks.positive("softmin_temperature", softmin_temperature)
    *batch_shape, num_classes, num_anchors = distances.shape
    checks.labels(labels, torch.Size(batch_shape), num_classes)
    if validate_args:
        checks.label_values(labels, num_classes, ignore_index)

    def nearest(candidates: Tensor, dim: int) -> Tensor:
        if softmin_temperature is None:
            return candidates.amin(dim).square()
        soft = (candidates.square() / -softmin_temperature).logsumexp(dim)
        return (soft - math.log(num_anchors)) * -softmin_temperature

    by_class = _classes_first(widen(distances))
    counted: Tensor | int
    if labels.is_floating_point():
        per_class = nearest(by_class, 1)
        losses = per_class * labels.to(per_class.dtype).movedim(-1, 0)
        if reduction == "none":
            return losses.sum(0)
        counted = max(1, torch.Size(batch_shape).numel())
    else:
        # Only the K distances of the label's class are needed.
        used = labels != ignore_index
        own = labels.where(used, 0)[None, None]
        losses = nearest(by_class.take_along_dim(own, 0).squeeze(0), 0) * used
        if reduction == "none":
            return losses
        counted = used.sum().clamp_min(1)
    # An empty or fully ignored batch gives 0, not 0/0.
    return losses.sum() if reduction == "sum" else losses.sum() / counted
