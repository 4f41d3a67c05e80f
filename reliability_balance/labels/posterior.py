"""Posterior of the true class, given predictions and labels that may be wrong."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reliability_balance import checks, numerics
from reliability_balance.labels.annotators import as_votes, check_labels, check_values
from reliability_balance.labels.rows import blocks

# A function from beliefs (B, C) and labels to posteriors (B, C).
PosteriorRule = Callable[[Tensor, Tensor], Tensor]


def label_posterior(beliefs: Tensor, labels: Tensor, noise_matrix: Tensor) -> Tensor:
    r"""Return the posterior of the true class, given the model's prediction and a label.

    .. math:: q_c = \frac{p_c \sum_k T_{ck} y_k}{\sum_{c'} p_{c'} \sum_k T_{c'k} y_k}

    where p are the beliefs, y the label, one-hot or soft, and T_{ck} the probability that a sample
    of class c is labelled k. If T is the identity, q is the (index) label. A soft label, such as
    vote shares, gives the probability of each label; beliefs and T then weigh these.

    Args:
        beliefs: class probabilities before the label is considered.
        labels: class indices or class probabilities.
        noise_matrix: T, whose rows sum to 1.

    Shape:
        - beliefs: (B, C) floating; labels: (B,) int64 or (B, C) floating; noise_matrix: (C, C)
          floating; returns (B, C).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes.

    Differs from paper: not in it. Bayes' rule, as in Sukhbaatar et al., 2014
    (https://arxiv.org/abs/1406.2080); a soft label is Pearl's virtual evidence. If the label has
    probability 0 under beliefs and T, the beliefs are returned.

    Example:
        >>> noise_matrix = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
        >>> label_posterior(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), noise_matrix)
        tensor([[0.6429, 0.3571]])
    """
    checks.distributions("beliefs", beliefs)
    checks.labels(labels, beliefs.shape[:-1], beliefs.shape[-1])
    checks.floating("noise_matrix", noise_matrix)
    if noise_matrix.shape != (beliefs.shape[-1],) * 2:
        raise ValueError(
            f"`noise_matrix` must have shape {(beliefs.shape[-1],) * 2}; "
            f"got {tuple(noise_matrix.shape)}"
        )
    beliefs = numerics.widen(beliefs)
    noise_matrix = noise_matrix.to(beliefs.dtype)
    tiny = torch.finfo(beliefs.dtype).tiny
    if not labels.is_floating_point():  # one column of T per label, no matrix product
        return normalised(beliefs * noise_matrix.T[labels].contiguous(), beliefs)
    given = labels.to(beliefs.dtype)
    with numerics.without_autocast(beliefs):
        likelihood = (given * (beliefs @ noise_matrix)).sum(-1, keepdim=True)
        possible = likelihood > tiny
        ratio = torch.where(possible, given / likelihood.where(possible, 1.0), 0.0)
        return beliefs * (ratio @ noise_matrix.T + ~possible)


def normalised(joint: Tensor, beliefs: Tensor) -> Tensor:
    """Scale the rows of `joint` (B, C) to sum 1; where all are 0, return the beliefs (B, C)."""
    tiny = torch.finfo(joint.dtype).tiny
    likelihood = joint.sum(-1, keepdim=True)
    return torch.where(likelihood > tiny, joint / likelihood.clamp_min(tiny), beliefs)


def annotator_posterior(beliefs: Tensor, labels: Tensor, noise_matrices: Tensor) -> Tensor:
    r"""Return the posterior of the true class, given the model's prediction and several labels.

    .. math:: q_c = \frac{p_c \prod_a T^a_{c y_a}}{\sum_{c'} p_{c'} \prod_a T^a_{c' y_a}}

    where p are the beliefs and T^a_{ck} is the probability that annotator a labels a sample of
    class c as k. The product is over the annotators who labelled the sample. Given the class, their
    labels are taken as independent.

    Args:
        beliefs: class probabilities before the labels are considered.
        labels: class indices, -1 where an annotator gave none.
        noise_matrices: T^a, whose rows sum to 1.

    Shape:
        - beliefs: (B, C) floating; labels: (B, A) int64 in [-1, C); noise_matrices: (A, C, C)
          floating; returns (B, C).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or labels.

    Differs from paper: not in it. This is the E-step of Dawid and Skene, Applied Statistics 1979,
    with a classifier's predictions as the prior, as in Raykar et al., JMLR 2010. If a sample has no
    labels, or labels of probability 0 under all classes, the beliefs are returned.

    Example:
        >>> careful = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> careless = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
        >>> labels = torch.tensor([[0, 1], [-1, 1], [-1, -1]])
        >>> beliefs = torch.full((3, 2), 0.5)
        >>> annotator_posterior(beliefs, labels, torch.stack([careful, careless]))
        tensor([[0.8571, 0.1429],
                [0.4000, 0.6000],
                [0.5000, 0.5000]])
    """
    checks.distributions("beliefs", beliefs)
    checks.rank("beliefs", beliefs, "(B, C)", 2)
    checks.floating("noise_matrices", noise_matrices)
    num_classes = beliefs.shape[-1]
    checks.rank("noise_matrices", noise_matrices, "(A, C, C)", 3)
    if noise_matrices.shape[1:] != (num_classes, num_classes):
        raise ValueError(
            f"`noise_matrices` must have shape (A, {num_classes}, {num_classes}); "
            f"got {tuple(noise_matrices.shape)}"
        )
    check_labels(labels, len(beliefs), len(noise_matrices))
    check_values(labels, num_classes)
    return posterior_of_annotators(beliefs, labels, noise_matrices)


def posterior_of_annotators(beliefs: Tensor, labels: Tensor, noise_matrices: Tensor) -> Tensor:
    """Compute :func:`annotator_posterior` without checks, which synchronize with the device."""
    beliefs = numerics.widen(beliefs)
    num_annotators, num_classes, _ = noise_matrices.shape
    # A row for each label of each annotator, and a last row of zeros for "no label".
    rows = _safe_log(noise_matrices.to(beliefs.dtype)).transpose(1, 2).flatten(0, 1)
    rows = nn.functional.pad(rows, (0, 0, 0, 1))
    first = num_classes * torch.arange(num_annotators, device=labels.device)
    place = (labels + first).where(labels >= 0, len(rows) - 1)
    # embedding_bag sums (B, A) rows without a (B, A, C) tensor.
    joint = _safe_log(beliefs) + nn.functional.embedding_bag(place, rows, mode="sum")
    possible = (joint > -torch.inf).any(-1, keepdim=True)
    return joint.where(possible, 0.0).softmax(-1).where(possible, beliefs)


def _safe_log(probs: Tensor) -> Tensor:
    """Return the logarithm; at 0 it is minus infinity, with gradient 0 instead of NaN."""
    tiny = torch.finfo(probs.dtype).smallest_normal
    return probs.clamp_min(tiny).log().where(probs > 0, -torch.inf)


def one_label_each(labels: Tensor, posterior: Tensor) -> Tensor:
    """Return each sample's most frequent label (B,); the posterior (B, C) breaks ties.

    Index labels (B,) and soft labels (B, C) are returned unchanged.
    """
    if labels.is_floating_point() or labels.ndim == 1:
        return labels
    # Counts are integers, so half a probability only breaks ties.
    return (as_votes(labels, posterior).sum(1) + posterior / 2.0).argmax(-1)


def as_probabilities(labels: Tensor, like: Tensor) -> Tensor:
    """Convert labels to (B, C) probabilities in the dtype of `like` (B, C).

    Labels of several annotators, (B, A) int64, become vote shares.
    """
    if labels.is_floating_point():
        return labels.to(like.dtype)
    if labels.ndim == like.ndim:
        counts = as_votes(labels, like).sum(1)
        return counts / counts.sum(-1, keepdim=True).clamp_min(1.0)
    zeros = torch.zeros(*labels.shape, like.shape[-1], dtype=like.dtype, device=labels.device)
    return zeros.scatter_(-1, labels.unsqueeze(-1), 1.0)


def expectation(rows: Tensor, labels: Tensor) -> Tensor:
    """Return the mean (B, 1) of rows (B, C) under labels, indices (B,) or probabilities (B, C)."""
    if labels.ndim == 1:
        return rows.gather(-1, labels.unsqueeze(-1))
    return (rows * labels).sum(-1, keepdim=True)


def towards_(posterior: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Return w q + (1 - w) y for posteriors q (B, C), which may be overwritten, and w (B, 1).

    Labels y are indices (B,) or probabilities (B, C). With indices, rows of `posterior` are q up to
    a factor.
    """
    if labels.ndim > 1:
        posterior = numerics.widen(posterior, labels)
        return labels.to(posterior.dtype).lerp(posterior, weight.to(posterior.dtype))
    weight = weight.to(posterior.dtype)
    totals = posterior.sum(-1, keepdim=True).clamp_min(torch.finfo(posterior.dtype).tiny)
    return posterior.mul_(weight / totals).scatter_add_(1, labels.unsqueeze(-1), 1.0 - weight)


def class_frequencies(labels: Tensor, num_classes: int, *, added: float = 0.0) -> Tensor:
    """Return the mean (C,) of labels in float64; of several annotators' labels of the vote shares.

    Labels are as for :func:`as_probabilities`; those of index labels are counted. So many labels
    are `added` to each class, in case one is missing.
    """
    if labels.ndim == 1:
        counts = labels.bincount(minlength=num_classes).double()
    else:
        counts = torch.zeros(num_classes, dtype=torch.float64, device=labels.device)
        width = num_classes * (1 if labels.is_floating_point() else labels.shape[1])
        for part in blocks(labels, width):
            counts += as_probabilities(part, counts.unsqueeze(0)).sum(0)
    counts += added
    return counts / counts.sum()


def sharpened_scores(probs: Tensor, temperature: float, bias: Tensor) -> Tensor:
    """Return log-probabilities divided by a temperature, plus a bias; finite where `probs` is 0."""
    tiny = torch.finfo(probs.dtype).tiny
    return probs.clamp_min(tiny).log_().div_(temperature).add_(bias)
