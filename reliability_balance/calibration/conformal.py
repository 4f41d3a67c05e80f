"""Split conformal prediction: scores of how badly a class fits, and the quantile that bounds them.

A score is a function of a sample and a class. A set holds the classes whose score does not exceed
the conformal quantile of the held-out scores of true classes.
"""

import math

import torch
from torch import Tensor

from reliability_balance import numerics


def lac_scores(log_probs: Tensor) -> Tensor:
    """Return -log p of each class (least ambiguous classifiers, Sadinle et al., JASA 2019).

    Shape:
        - log_probs: (..., C) floating; returns (..., C).

    Reference: https://arxiv.org/abs/1609.00451.
    """
    return -numerics.widen(log_probs)


def aps_scores(log_probs: Tensor, uniform: Tensor) -> Tensor:
    r"""Return the adaptive score of each class (Romano et al., NeurIPS 2020), less 1.

    .. math:: s_c = \sum_{k: r_k < r_c} p_k + u p_c - 1 = -\sum_{k: r_k > r_c} p_k - (1 - u) p_c

    where r_c is the rank of class c, 1 for the most likely. The right side is computed: it keeps
    the small masses that a float near 1 cannot hold. Equal probabilities rank by class index.

    Args:
        log_probs: log-probabilities.
        uniform: u, uniform in [0, 1), one for each sample.

    Shape:
        - log_probs: (..., C) floating; uniform: (...); returns (..., C) in [-1, 0].

    Reference: https://arxiv.org/abs/2006.02544.
    """
    probs, order = numerics.widen(log_probs).exp().sort(dim=-1, descending=True, stable=True)
    not_above = probs.flip(-1).cumsum(-1).flip(-1)
    scores = uniform.to(probs).unsqueeze(-1) * probs - not_above
    return torch.empty_like(scores).scatter(-1, order, scores)


def raps_scores(log_probs: Tensor, uniform: Tensor, *, penalty: float, free_ranks: int) -> Tensor:
    r"""Return :func:`aps_scores` plus a penalty on low ranks (Angelopoulos et al., ICLR 2021).

    .. math:: s_c + \lambda \max(0, r_c - k)

    Args:
        log_probs: log-probabilities.
        uniform: u, uniform in [0, 1), one for each sample.
        penalty: lambda, for each rank beyond the free ones.
        free_ranks: k.

    Shape:
        - log_probs: (..., C) floating; uniform: (...); returns (..., C).

    Reference: https://arxiv.org/abs/2009.14193.
    """
    scores = aps_scores(log_probs, uniform)
    order = numerics.widen(log_probs).argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    beyond = (ranks - free_ranks).clamp_min(0).expand_as(scores)
    return scores + penalty * torch.empty_like(scores).scatter(-1, order, beyond)


def conformal_quantile(scores: Tensor, coverage: float) -> Tensor:
    r"""Return the score that a new one, drawn like these, does not exceed as often as `coverage`.

    The ceil((N + 1) coverage)-th smallest of the N scores; infinite if there are too few.

    Args:
        scores: of true classes.
        coverage: in (0, 1).

    Shape:
        - scores: (N,) floating; returns (), float32, rounded up.

    Example:
        >>> conformal_quantile(torch.arange(10.0), 0.5), conformal_quantile(torch.ones(8), 0.9)
        (tensor(5.), tensor(inf))
    """
    rank = quantile_rank(len(scores), coverage)
    if rank > len(scores):
        return scores.new_full((), torch.inf, dtype=torch.float32)
    return round_up(scores.kthvalue(rank).values)


def quantile_rank(count: int, coverage: float) -> int:
    """Return ceil((N + 1) coverage); above N where N samples are too few for a finite quantile."""
    return math.ceil((count + 1) * coverage)


def round_up(value: Tensor) -> Tensor:
    """Return the value in float32, rounded up, so that no promise is lost in rounding."""
    single = value.to(torch.float32)
    return torch.nextafter(single, torch.full_like(single, torch.inf)).where(single < value, single)
