"""Losses of others, written from their papers, each on logits (B, C) and labels (B,)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 2017): cross-entropy times (1 - p)^gamma."""
    log_prob = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    # Below 1, gamma gives an infinite slope where p is 1.
    return -((1 - log_prob.exp()).clamp_min(1e-6) ** gamma * log_prob).mean()


def generalised_cross_entropy(logits: Tensor, labels: Tensor, *, q: float = 0.7) -> Tensor:
    """GCE (Zhang and Sabuncu, 2018): (1 - p^q) / q."""
    log_prob = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return ((1 - (q * log_prob).exp()) / q).mean()


def symmetric_cross_entropy(
    logits: Tensor, labels: Tensor, *, forward: float = 0.1, reverse: float = 1.0
) -> Tensor:
    """SCE (Wang et al., 2019): cross-entropy and its reverse, with log 0 taken as -4."""
    prob = logits.softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return forward * F.cross_entropy(logits, labels) + reverse * 4 * (1 - prob).mean()


def early_learning_term(logits: Tensor, average: Tensor) -> Tensor:
    """The regulariser of ELR (Liu et al., 2020): log(1 - <average, p>)."""
    agreement = (average * logits.softmax(-1)).sum(-1)
    return (1 - agreement).clamp_min(1e-4).log().mean()


def rank_regularisation(
    weights: Tensor, *, high_share: float = 0.7, margin: float = 0.15
) -> Tensor:
    """SCN's term (Wang et al., 2020): the surer part must be surer by a margin, on average."""
    ordered = weights.sort(descending=True).values
    cut = round(high_share * len(ordered))
    return (margin - (ordered[:cut].mean() - ordered[cut:].mean())).clamp_min(0)


def center_distance(embedding: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Center loss (Wen et al., 2016): half the squared distance to the class's centre."""
    return (embedding - centers[labels]).square().sum(-1).mean() / 2


def mix_by_uncertainty(embedding: Tensor, log_scale: Tensor, partner: Tensor) -> Tensor:
    """RUL's fusion (Zhang et al., 2021): a pair, each weighted by its share of the uncertainty."""
    own = torch.sigmoid(log_scale - log_scale[partner])  # e^a / (e^a + e^b)
    return own * embedding + (1 - own) * embedding[partner]
