"""Losses of other methods, written from their papers, on logits (B, C) and labels (B,)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 2017): cross-entropy times (1 - p)^gamma."""
    log_prob = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    # With gamma below 1, the gradient is infinite at p = 1.
    return -((1 - log_prob.exp()).clamp_min(1e-6) ** gamma * log_prob).mean()


def generalised_cross_entropy(logits: Tensor, labels: Tensor, *, q: float = 0.7) -> Tensor:
    """GCE (Zhang and Sabuncu, 2018): (1 - p^q) / q; for soft labels its expectation."""
    losses = (1 - (q * logits.log_softmax(-1)).exp()) / q
    if labels.is_floating_point():
        return (labels * losses).sum(-1).mean()
    return losses.gather(-1, labels.unsqueeze(-1)).mean()


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
    """SCN's rank regularisation (Wang et al., 2020): a margin between high and low weights."""
    ordered = weights.sort(descending=True).values
    cut = round(high_share * len(ordered))
    return (margin - (ordered[:cut].mean() - ordered[cut:].mean())).clamp_min(0)


def center_distance(embedding: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Center loss (Wen et al., 2016): half the squared distance to the class centre."""
    return (embedding - centers[labels]).square().sum(-1).mean() / 2


def mix_by_uncertainty(embedding: Tensor, log_scale: Tensor, partner: Tensor) -> Tensor:
    """RUL's fusion (Zhang et al., 2021): mix a pair, weighted by their uncertainties."""
    own = torch.sigmoid(log_scale - log_scale[partner])  # e^a / (e^a + e^b)
    return own * embedding + (1 - own) * embedding[partner]


def soft_cross_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B,) of log-probabilities with soft labels (B, C)."""
    return -(labels * log_probs).sum(-1)


def over_parameterised(logits: Tensor, labels: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """SOP (Liu et al., 2022): also learn the sparse noise u^2 y - v^2 (1 - y) of each label.

    Cross-entropy of the noisy prediction trains the network and u; the squared error of its hard
    prediction trains v. Labels, u and v are (B, C).
    """
    added = u.square() * labels
    removed = v.square() * (1 - labels)
    probs = logits.softmax(-1)
    noisy = (probs + added - removed.detach()).clamp_min(1e-4)
    cross_entropy = soft_cross_entropy((noisy / noisy.sum(-1, keepdim=True)).log(), labels).mean()
    hard = F.one_hot(probs.argmax(-1), probs.shape[-1])
    error = hard + added.detach() - removed - labels
    return cross_entropy + error.square().sum(-1).mean()


def class_balance(log_probs: Tensor, prior: Tensor) -> Tensor:
    """SOP+ and DivideMix: KL divergence of the batch's mean prediction from the class prior."""
    mean = log_probs.exp().mean(0).clamp_min(1e-8)
    return (prior * (prior.clamp_min(1e-8) / mean).log()).sum()


def view_consistency(logits: Tensor, second: Tensor) -> Tensor:
    """SOP+: KL divergence of the second view's predictions from the first's, without gradient."""
    first = logits.detach().log_softmax(-1)
    return F.kl_div(second.log_softmax(-1), first, log_target=True, reduction="batchmean")


def mixmatch(logits: Tensor, targets: Tensor, trusted: Tensor, weight: float) -> Tensor:
    """MixMatch (Berthelot et al., 2019): cross-entropy for trusted samples, else squared error.

    Targets are (B, C), `trusted` is (B,) bool; the squared error is a mean over classes.
    """
    log_probs = logits.log_softmax(-1)
    known = soft_cross_entropy(log_probs, targets)
    guessed = (log_probs.exp() - targets).square().mean(-1)
    return _mean_where(known, trusted) + weight * _mean_where(guessed, ~trusted)


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values; 0 if there are none."""
    return values.where(chosen, 0.0).sum() / chosen.sum().clamp_min(1)


def mixup(inputs: Tensor, targets: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018) of a batch; each sample has the larger weight in its mixture."""
    share = float(torch.distributions.Beta(concentration, concentration).sample())
    share = max(share, 1 - share)
    partner = torch.randperm(len(inputs))
    return (
        share * inputs + (1 - share) * inputs[partner],
        share * targets + (1 - share) * targets[partner],
    )
