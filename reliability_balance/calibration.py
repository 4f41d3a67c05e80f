"""Make probabilities mean what they say: scalings fitted on held-out log-probabilities.

Fit on data that the model was not trained on; its labels should be as clean as can be had, since
wrong ones make every answer look less sure than it should.

A small set may hold no error, or too few to tell its answers apart. Its likelihood then has no
finite optimum (Albert and Anderson, Biometrika 1984, https://doi.org/10.1093/biomet/71.1.1), and
would turn every answer into a certainty. So all scalings are fitted under a weak prior, as Gelman
et al. propose for logistic regression (Annals of Applied Statistics 2008,
https://doi.org/10.1214/08-AOAS191): log T, and what takes its place in the other scalings, is
normal about what changes nothing, with a standard deviation of 1 + k, where k is the number of
wrong answers, or of right ones if these are fewer. That width is ours. Ten answers that were all
right with p = (.5, .3, .2) raise the .5 to .94, near the 11/12 of the rule of succession; with
hundreds of errors the prior moves nothing that could be measured.

What a fit promises: on the data that it was fitted on, the mean negative log-likelihood, without
the prior, is not above that of the predictions as they were, but for rounding. Each fit is compared
with that as it will be stored, and is not kept where it is not better.
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
from reliability_balance._scaling import prior_weight, settle, tempered
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
    labels under the weak prior told above, about T = 1; it is found by halving an interval, so to
    all digits. T = 1 stays where no other is better on the held-out labels.

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
        >>> log_probs = torch.tensor([[0.9, 0.1]] * 400).log()
        >>> calibration = TemperatureScaling().fit(log_probs, torch.tensor([0, 0, 0, 1] * 100))
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
        weight = prior_weight(scores, targets)

        def slope(inverse: float) -> float:
            """Derivative of negative log-likelihood and prior by log(1/T)."""
            expected = ((scores * inverse).softmax(-1) - targets) * scores * inverse
            return float(expected.sum(-1).mean()) + weight * math.log(inverse)

        self.temperature.fill_(1.0 / _rising_root(slope, FLATTEST, SHARPEST))
        # Judged as it is stored.
        found = tempered(scores, self.temperature.to(scores.device))
        if not F.cross_entropy(found, targets) < F.cross_entropy(scores, targets):
            self.temperature.fill_(1.0)
        return self


class VectorScaling(nn.Module):
    r"""Scale and shift each class's score: temperature scaling that also corrects class biases.

    .. math:: \hat p = softmax(w \odot \log p + b)

    Fitted by L-BFGS on the negative log-likelihood of the held-out labels, from where
    :class:`TemperatureScaling` ends, w = 1/T and b = 0, under the weak prior told above, of w T
    and b. It keeps that where nothing is better on the held-out labels, which leaves w = 1 where no
    temperature is either. It can change the predicted class.

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
        >>> log_probs = torch.tensor([[0.5, 0.5]] * 400).log()
        >>> calibration = VectorScaling(2).fit(log_probs, torch.tensor([0, 0, 0, 1] * 100))
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

    @torch.no_grad()
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
        temperature = TemperatureScaling().fit(scores, targets).temperature.to(scores)

        def parameters(free: Tensor) -> Tensor:
            return torch.stack([(1.0 + free[0]) / temperature, free[1]])

        def loss(found: Tensor) -> Tensor:
            return F.cross_entropy(scores * found[0] + found[1], targets)

        start, weight = scores.new_zeros(2, len(self.weight)), prior_weight(scores, targets)
        found = settle(loss, parameters, start, weight, self.weight.dtype)
        self.weight.copy_(found[0])
        self.bias.copy_(found[1])
        return self


def fit_with_noise(
    calibration: CalibrationT, log_probs: Tensor, labels: Tensor, noise_matrix: Tensor
) -> CalibrationT:
    r"""Fit a scaling to held-out labels that are as noisy as those of the training.

    By turns the true classes' :func:`posterior.label_posterior`, and the scaling fitted to it: this
    is expectation maximisation of the noisy labels' likelihood under the noise matrix, and of the
    scaling's own prior.

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
        >>> log_probs = torch.tensor([[0.9, 0.1]] * 1000).log()
        >>> labels = torch.tensor([0] * 600 + [1] * 400)  # of 7 to 3, a quarter flipped
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
