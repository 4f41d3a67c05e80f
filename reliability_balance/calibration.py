"""Make probabilities mean what they say: scalings fitted on held-out log-probabilities.

Fit on data that the model was not trained on; its labels should be as clean as can be had, since
wrong ones make every answer look less sure than it should.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import _checks
from reliability_balance import functional as RF
from reliability_balance._scaling import minimise, tempered
from reliability_balance.posterior import _as_probabilities, label_posterior

# Inverse temperatures that are looked at, and the halvings that find one to double precision.
SHARPEST, FLATTEST, HALVINGS = 1e3, 1e-3, 80
EM_STEPS = 50


class Calibration(Protocol):
    """What all scalings of log-probabilities have in common."""

    def __call__(self, log_probs: Tensor, /) -> Tensor:
        """Return the calibrated log-probabilities."""

    def fit(self, log_probs: Tensor, labels: Tensor, /) -> Any:
        """Fit to held-out data."""


CalibrationT = TypeVar("CalibrationT", bound=Calibration)


class TemperatureScaling(nn.Module):
    r"""Sharpen or flatten all predictions alike, by one temperature.

    .. math:: \hat p = softmax(\log p / T)

    The predicted class stays what it is. T minimises the negative log-likelihood of the held-out
    labels, which is convex in 1/T; it is found by halving an interval, so it is exact, and never
    worse than T = 1.

    Shape:
        - log_probs: (..., C) floating, logits or log-probabilities; returns (..., C)
          log-probabilities.

    State:
        ``temperature`` (), a buffer, 1 until fitted; the same on all ranks that fit the same data.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values, or if probabilities are given where logarithms are
            wanted.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2,
        https://arxiv.org/abs/1706.04599.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]).log()
        >>> calibration = TemperatureScaling().fit(log_probs, torch.tensor([0, 0, 0, 1]))
        >>> calibration(log_probs).exp()[0]
        tensor([0.7500, 0.2500])
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return the calibrated log-probabilities."""
        return tempered(log_probs, self.temperature)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor) -> Self:
        """Find the temperature.

        Args:
            log_probs: held-out logits or log-probabilities.
            labels: their class indices, or class probabilities.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64 or (N, C) floating.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or probabilities instead of logarithms.
        """
        scores, targets = held_out(log_probs, labels)

        def slope(inverse: float) -> float:
            """Derivative of the negative log-likelihood by 1/T; it rises with 1/T."""
            expected = ((scores * inverse).softmax(-1) - targets) * scores
            return float(expected.sum(-1).mean())

        self.temperature.fill_(1.0 / _rising_root(slope, FLATTEST, SHARPEST))
        return self


class VectorScaling(nn.Module):
    r"""Scale and shift each class's score: temperature scaling that also corrects class biases.

    .. math:: \hat p = softmax(w \odot \log p + b)

    Fitted by L-BFGS on the convex negative log-likelihood. It keeps w = 1, b = 0 where the fit
    would be worse than that, and can change the predicted class.

    Args:
        num_classes: C.

    Shape:
        - log_probs: (..., C) floating, logits or log-probabilities; returns (..., C)
          log-probabilities.

    State:
        ``weight`` and ``bias`` (C,), buffers, 1 and 0 until fitted; the same on all ranks that
        fit the same data.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values, or if probabilities are given where logarithms are
            wanted.

    Reference: Guo et al., ICML 2017, section 4.2, https://arxiv.org/abs/1706.04599.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5]] * 4).log()
        >>> calibration = VectorScaling(2).fit(log_probs, torch.tensor([0, 0, 0, 1]))
        >>> calibration(log_probs).exp()[0]
        tensor([0.7500, 0.2500])
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        _checks.at_least("num_classes", num_classes, 2)
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return the calibrated log-probabilities."""
        wide = RF.widen(log_probs)
        return (wide * self.weight.to(wide.dtype) + self.bias.to(wide.dtype)).log_softmax(-1)

    def fit(self, log_probs: Tensor, labels: Tensor) -> Self:
        """Find weight and bias.

        Args:
            log_probs: held-out logits or log-probabilities.
            labels: their class indices, or class probabilities.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64 or (N, C) floating.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or probabilities instead of logarithms.
        """
        scores, targets = held_out(log_probs, labels)
        _checks.width("log_probs", log_probs, len(self.weight))
        weight = torch.ones_like(self.weight, dtype=scores.dtype).requires_grad_()
        bias = torch.zeros_like(self.bias, dtype=scores.dtype).requires_grad_()

        def loss() -> Tensor:
            return F.cross_entropy(scores * weight + bias, targets)

        before = float(loss().detach())
        minimise(loss, [weight, bias])
        if float(loss().detach()) < before:
            self.weight.copy_(weight.detach())
            self.bias.copy_(bias.detach())
        return self


def fit_with_noise(
    calibration: CalibrationT, log_probs: Tensor, labels: Tensor, noise_matrix: Tensor
) -> CalibrationT:
    r"""Fit a scaling to held-out labels that are as noisy as those of the training.

    By turns the true classes' :func:`posterior.label_posterior`, and the scaling fitted to it: this
    is expectation maximisation of the noisy labels' likelihood under the noise matrix.

    Args:
        calibration: a scaling of log-probabilities; it is fitted in place, and returned.
        log_probs: held-out logits or log-probabilities.
        labels: their noisy class indices.
        noise_matrix: T_{ck}, how often class c is labelled k, such as
            :attr:`targets.RefurbishedTargets.noise_matrix`.

    Shape:
        - log_probs: (N, C) floating; labels: (N,) int64; noise_matrix: (C, C) floating.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values, or probabilities instead of logarithms.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1]] * 10).log()
        >>> labels = torch.tensor([0] * 6 + [1] * 4)  # of 7 to 3, a quarter flipped
        >>> noise_matrix = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> scaling = fit_with_noise(TemperatureScaling(), log_probs, labels, noise_matrix)
        >>> bool((scaling(log_probs).exp()[0, 0] - 0.7).abs() < 0.02)
        True
    """
    held_out(log_probs, labels)
    for _ in range(EM_STEPS):
        beliefs = calibration(log_probs).exp()
        calibration.fit(log_probs, label_posterior(beliefs, labels, noise_matrix))
    return calibration


def held_out(log_probs: Tensor, labels: Tensor, name: str = "log_probs") -> tuple[Tensor, Tensor]:
    """Check what a scaling is fitted on; scores and (N, C) targets in float64."""
    _checks.distributions(name, log_probs)
    _checks.rank(name, log_probs, "(N, C)", 2)
    _checks.finite(name, log_probs)
    if len(log_probs) == 0:
        raise ValueError(f"`{name}` must hold at least 1 sample; got 0")
    sums = log_probs.sum(-1)
    if bool((log_probs >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        raise ValueError(
            f"`{name}` must be logits or log-probabilities; got rows that are non-negative and "
            "sum to 1, which are probabilities: take their logarithm"
        )
    num_classes = log_probs.shape[-1]
    _checks.labels(labels, log_probs.shape[:1], num_classes)
    _checks.label_values(labels, num_classes)
    scores = log_probs.detach().to(torch.float64)
    return scores, _as_probabilities(labels, scores).to(scores)


def _rising_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function crosses 0, halved on a log scale; an end where it does not."""
    if function(high) <= 0:
        return high
    if function(low) >= 0:
        return low
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if function(middle) > 0:
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)
