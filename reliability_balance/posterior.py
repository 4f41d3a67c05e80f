"""Bayes' rule for labels that may be wrong."""

import torch
from torch import Tensor, nn

from reliability_balance import _checks
from reliability_balance import functional as RF


def label_posterior(beliefs: Tensor, labels: Tensor, noise_matrix: Tensor) -> Tensor:
    r"""Distribution of the true class, given what the model believes and the label it was given.

    .. math:: q_c = \frac{p_c \sum_k T_{ck} y_k}{\sum_{c'} p_{c'} \sum_k T_{c'k} y_k}

    where p are the beliefs, y the label, one-hot or soft, and T_{ck} the probability that a sample
    of class c is labelled k. Where labels are never wrong, T is the identity, and q an index label.
    A soft label, such as the shares of several people's votes, says how likely each label is to be
    the one that was meant; beliefs and T then decide between these.

    Args:
        beliefs: probabilities of the true class, before the label is looked at.
        labels: class indices or class probabilities.
        noise_matrix: T, rows that sum to one.

    Shape:
        - beliefs: (B, C) floating; labels: (B,) int64 or (B, C) floating; noise_matrix: (C, C)
          floating; returns (B, C).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes.

    Differs from paper: not in it. Bayes' rule, as in Sukhbaatar et al., 2014
    (https://arxiv.org/abs/1406.2080); a soft label is Pearl's virtual evidence. A label that
    beliefs and T rule out altogether leaves the beliefs as they are.

    Example:
        >>> noise_matrix = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
        >>> label_posterior(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), noise_matrix)
        tensor([[0.6429, 0.3571]])
    """
    _checks.distributions("beliefs", beliefs)
    _checks.labels(labels, beliefs.shape[:-1], beliefs.shape[-1])
    _checks.floating("noise_matrix", noise_matrix)
    if noise_matrix.shape != (beliefs.shape[-1],) * 2:
        raise ValueError(
            f"`noise_matrix` must have shape {(beliefs.shape[-1],) * 2}; "
            f"got {tuple(noise_matrix.shape)}"
        )
    beliefs = RF.widen(beliefs)
    noise_matrix = noise_matrix.to(beliefs.dtype)
    tiny = torch.finfo(beliefs.dtype).tiny
    if not labels.is_floating_point():  # one column of T each, no matrix product
        joint = beliefs * noise_matrix.T.contiguous()[labels]
        expected = joint.sum(-1, keepdim=True)
        return torch.where(expected > tiny, joint / expected.clamp_min(tiny), beliefs)
    given = labels.to(beliefs.dtype)
    with RF._without_autocast(beliefs):
        evidence = (given * (beliefs @ noise_matrix)).sum(-1, keepdim=True)
        possible = evidence > tiny
        ratio = torch.where(possible, given / evidence.where(possible, 1.0), 0.0)
        return beliefs * (ratio @ noise_matrix.T + ~possible)


def _as_probabilities(labels: Tensor, like: Tensor) -> Tensor:
    """Labels as (B, C) probabilities in the dtype of `like`, also (B, C)."""
    if labels.is_floating_point():
        return labels.to(like.dtype)
    return nn.functional.one_hot(labels, like.shape[-1]).to(like.dtype)
