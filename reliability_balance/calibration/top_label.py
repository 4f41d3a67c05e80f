"""Calibrate the probability of the predicted class by a curve with three coefficients."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance.calibration.fitting import (
    held_out,
    prior_weight,
    settle,
    warn_of_one_class,
)
from reliability_balance.core.settings import Configured


class TopLabelScaling(Configured):
    r"""Top-label calibration: rescale the predicted class, keep the proportions of the others.

    .. math:: \hat p_t = \sigma(a \log p_t - b \log (1 - p_t) + c), \quad
        \hat p_k = (1 - \hat p_t) \frac{p_k}{1 - p_t}

    with t the most probable class, and a, b > 0, so that the map is increasing. With a = b the
    curve is a temperature between t and the rest. With a != b it bends at one end alone, which is
    needed where fusion with a flat distribution keeps every probability away from 0 or 1.

    The likelihood of the labels factors into that of "t is right" and a part without a, b and c.
    So the fit, by L-BFGS on the held-out labels, is a logistic regression with three coefficients,
    under the weak prior of :mod:`calibration` on log a, log b and c, centred on 0. It keeps
    a = b = 1, c = 0 if nothing is better on the held-out labels. If t was barely ahead and loses
    probability, the predicted class can change.

    Shape:
        - log_probs: (..., C) floating, logits or log-probabilities; returns (..., C)
          log-probabilities.

    State:
        ``coefficients`` (3,), a buffer: a, b and c, 1, 1 and 0 until fitted; the same on all ranks
        that fit the same data.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values, or probabilities instead of their logarithms.

    Reference: the curve is from Kull et al., Beta calibration, AISTATS 2017,
        https://proceedings.mlr.press/v54/kull17a.html; the task from Gupta and Ramdas,
        Top-label calibration, ICLR 2022, https://arxiv.org/abs/2107.08353.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.05, 0.05]] * 400).log()
        >>> calibration = TopLabelScaling().fit(log_probs, torch.tensor([0, 0, 0, 1] * 100))
        >>> calibration(log_probs).exp()[0]
        tensor([0.7500, 0.1250, 0.1250])
    """

    FITTED = ("coefficients",)

    coefficients: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coefficients", torch.tensor([1.0, 1.0, 0.0]))

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return the calibrated log-probabilities."""
        checks.distributions("log_probs", log_probs)
        normalised, top, log_top, log_rest = _split(numerics.widen(log_probs))
        score = _score(log_top, log_rest, self.coefficients.to(normalised.dtype))
        others = normalised - log_rest + F.logsigmoid(-score)
        return others.scatter(-1, top, F.logsigmoid(score))

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor, *, class_prior: Tensor | None = None) -> Self:
        """Fit the coefficients.

        Args:
            log_probs: held-out logits or log-probabilities.
            labels: their class indices, or class probabilities.
            class_prior: frequency or count of each class in the held-out data, > 0, if `log_probs`
                are for evenly frequent classes. None: no importance weights.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64 or (N, C) floating; class_prior: (C,).

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or probabilities instead of their logarithms.

        Warns:
            UserWarning: if all samples are of one class.
        """
        scores, targets = held_out(log_probs, labels, class_prior=class_prior)
        warn_of_one_class(targets)
        _, top, log_top, log_rest = _split(scores)
        weights = targets.sum(-1, keepdim=True)
        is_right = targets.gather(-1, top) / weights

        def loss(coefficients: Tensor) -> Tensor:
            score = _score(log_top, log_rest, coefficients)
            return F.binary_cross_entropy_with_logits(score, is_right, weights)

        start, weight = scores.new_zeros(3), prior_weight(scores, targets)
        found = settle(loss, _coefficients, start, weight, self.coefficients.dtype)
        self.coefficients.copy_(found)
        return self


def _split(scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log p (..., C), the top class (..., 1), and log p of it and of all others."""
    normalised = scores.log_softmax(-1)
    log_top, top = normalised.max(-1, keepdim=True)
    log_rest = normalised.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    return normalised, top, log_top, log_rest.clamp_min(math.log(torch.finfo(scores.dtype).tiny))


def _score(log_top: Tensor, log_rest: Tensor, coefficients: Tensor) -> Tensor:
    return coefficients[0] * log_top - coefficients[1] * log_rest + coefficients[2]


def _coefficients(free: Tensor) -> Tensor:
    """Map free values to coefficients: exp for the first two, which stay positive."""
    return torch.cat([free[:2].exp(), free[2:]])
