"""Temperature and vector scaling of log-probabilities, and their fit to noisy labels."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance.calibration.fitting import (
    FEWEST,
    common_temperature,
    effective_count,
    held_out,
    rarer_answers,
    settle,
    tempered,
    warn_of_one_class,
    warn_of_scarce_classes,
)
from reliability_balance.core.output import BalancerOutput
from reliability_balance.core.settings import Configured
from reliability_balance.labels.posterior import as_probabilities, label_posterior

EM_STEPS = 50


class Calibration(Protocol):
    """Interface of all calibrations.

    They take log-probabilities; :class:`calibration.BranchTemperatures` takes a
    :class:`BalancerOutput`.
    """

    def __call__(self, log_probs: Any, /) -> Tensor:
        """Return the calibrated log-probabilities."""

    def fit(self, log_probs: Any, labels: Tensor, /, *, class_prior: Tensor | None = None) -> Any:
        """Fit to held-out data."""


CalibrationT = TypeVar("CalibrationT", bound=Calibration)


class TemperatureScaling(Configured):
    r"""Temperature scaling: one temperature for all predictions.

    .. math:: \hat p = softmax(\log p / T)

    The predicted class does not change. T minimises the negative log-likelihood of the held-out
    labels under the weak prior of :mod:`calibration`, centred on T = 1, and is found by bisection
    to full precision. T stays 1 if no other value is better on the held-out labels.

    Shape:
        - log_probs: (..., C) floating, logits or log-probabilities; returns (..., C)
          log-probabilities.

    State:
        ``temperature`` (), a buffer, 1 until fitted; the same on all ranks that fit the same data.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values, or probabilities instead of their logarithms.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2,
        https://arxiv.org/abs/1706.04599.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1]] * 400).log()
        >>> calibration = TemperatureScaling().fit(log_probs, torch.tensor([0, 0, 0, 1] * 100))
        >>> calibration(log_probs).exp()[0]
        tensor([0.7500, 0.2500])
    """

    FITTED = ("temperature",)

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return the calibrated log-probabilities."""
        checks.distributions("log_probs", log_probs)
        return tempered(log_probs, self.temperature)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor, *, class_prior: Tensor | None = None) -> Self:
        """Fit the temperature.

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
        self.temperature.copy_(common_temperature(scores, targets, self.temperature.dtype))
        return self


class VectorScaling(Configured):
    r"""Vector scaling: a weight and a bias for each class, which also correct class biases.

    .. math:: \hat p = softmax(w \odot \log p + b)

    Fitted by L-BFGS on the negative log-likelihood of the held-out labels, under the weak
    prior of :mod:`calibration` on w T and b. The fit starts at the result of
    :class:`TemperatureScaling`, w = 1/T and b = 0, and stays there if nothing is better on the
    held-out labels. It can change the predicted class.

    A class with fewer than 5 held-out samples is too rare to be fitted, and one without any would
    get probability 0. It keeps the common temperature and a bias of 0, and `fit` warns. The other
    classes are fitted by the likelihood conditional on these classes, so that moving probability
    to them from the excluded ones gains nothing. For each class, the k of the prior's width is
    limited to the number of its own samples and to that of all others.

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
        ValueError: on wrong shapes or values, or probabilities instead of their logarithms.

    Reference: Guo et al., ICML 2017, section 4.2, https://arxiv.org/abs/1706.04599.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.5]] * 400).log()
        >>> calibration = VectorScaling(2).fit(log_probs, torch.tensor([0, 0, 0, 1] * 100))
        >>> calibration(log_probs).exp()[0]
        tensor([0.7500, 0.2500])
    """

    weight: Tensor
    bias: Tensor

    SETTINGS: ClassVar = {"num_classes": int}

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        checks.at_least("num_classes", num_classes, 2)
        self.num_classes = num_classes
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return the calibrated log-probabilities."""
        checks.distributions("log_probs", log_probs)
        wide = numerics.widen(log_probs)
        return (wide * self.weight.to(wide.dtype) + self.bias.to(wide.dtype)).log_softmax(-1)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor, *, class_prior: Tensor | None = None) -> Self:
        """Fit weight and bias.

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
            UserWarning: if a class has fewer than 5 samples.
        """
        checks.width("log_probs", log_probs, len(self.weight))
        scores, targets = held_out(log_probs, labels, class_prior=class_prior)
        counts = as_probabilities(labels, scores).sum(0)
        warn_of_scarce_classes(counts)
        self._fit(scores, targets, counts)
        return self

    def _fit(self, scores: Tensor, targets: Tensor, counts: Tensor) -> None:
        """Fit to the output of `held_out`, given the number of samples of each class (C,)."""
        fitted = counts >= FEWEST
        temperature = common_temperature(scores, targets, self.weight.dtype).to(scores)
        rarer = rarer_answers(scores, targets)
        known = torch.minimum(counts, counts.sum() - counts).clamp_max(rarer)[fitted]
        prior = 1.0 / (effective_count(targets) * (1.0 + known) ** 2)
        some_scores, some_targets = scores[:, fitted], targets[:, fitted]

        def parameters(free: Tensor) -> Tensor:
            return torch.stack([(1.0 + free[0]) / temperature, free[1]])

        def loss(found: Tensor) -> Tensor:
            return F.cross_entropy(some_scores * found[0] + found[1], some_targets)

        before = parameters(scores.new_zeros(2, len(counts))).to(self.weight.dtype)
        after = before.clone()
        if len(known) > 1:
            start = scores.new_zeros(2, len(known))
            after[:, fitted] = settle(loss, parameters, start, prior, self.weight.dtype)
        losses = [F.cross_entropy(scores * each[0] + each[1], targets) for each in (before, after)]
        found = after if bool(losses[1] < losses[0]) else before
        self.weight.copy_(found[0])
        self.bias.copy_(found[1])


@torch.no_grad()
def fit_with_noise(
    calibration: CalibrationT,
    log_probs: Tensor | BalancerOutput,
    labels: Tensor,
    noise_matrix: Tensor,
    *,
    class_prior: Tensor | None = None,
) -> CalibrationT:
    r"""Fit a calibration to held-out labels that are as noisy as the training labels.

    Expectation maximisation of the noisy labels' likelihood under the noise matrix, with the
    calibration's own prior: it alternates between the :func:`labels.label_posterior` of the true
    classes and a fit to that posterior. :class:`VectorScaling` fits weight and bias only for
    classes with at least 5 samples beyond three standard errors of the noise.

    Args:
        calibration: any of this library; it is fitted in place and returned.
        log_probs: input of its own `fit`: held-out logits or log-probabilities, or for
            :class:`calibration.BranchTemperatures` a :class:`BalancerOutput`.
        labels: their noisy class indices.
        noise_matrix: noise transition matrix, T_{ck} = P(label k | class c), such as
            `labels.RefurbishedTargets.noise_matrix`.
        class_prior: frequency or count of each true class in the held-out data, > 0, if `log_probs`
            are for evenly frequent classes. None: no importance weights.

    Shape:
        - log_probs: (N, C) floating, or an output of N samples; labels: (N,) int64; noise_matrix:
          (C, C) floating; class_prior: (C,).

    Raises:
        TypeError: on a wrong dtype, or if the calibration does not take such `log_probs`.
        ValueError: on wrong shapes or values, rows of the matrix that do not sum to 1, or
            probabilities instead of their logarithms.

    Warns:
        UserWarning: as the calibration's own `fit`.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1]] * 1000).log()
        >>> labels = torch.tensor([0] * 600 + [1] * 400)  # of 7 to 3, a quarter flipped
        >>> noise_matrix = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> scaling = fit_with_noise(TemperatureScaling(), log_probs, labels, noise_matrix)
        >>> bool((scaling(log_probs).exp()[0, 0] - 0.7).abs() < 0.02)
        True
    """
    scores = log_probs.log_probs if isinstance(log_probs, BalancerOutput) else log_probs
    wide, targets = held_out(scores, labels, class_prior=class_prior)
    checks.floating("noise_matrix", noise_matrix)
    checks.probability_values("rows of `noise_matrix`", noise_matrix)
    fit: Callable[[Tensor], Any]
    if isinstance(calibration, VectorScaling):
        vector = calibration
        if isinstance(log_probs, BalancerOutput):
            raise TypeError("`log_probs` must be a torch.Tensor; got BalancerOutput")
        checks.width("log_probs", wide, len(vector.weight))
        counts = _counts_beyond_noise(as_probabilities(labels, wide), noise_matrix.to(wide))
        warn_of_scarce_classes(counts)

        def fit(posterior: Tensor) -> None:
            vector._fit(*held_out(scores, posterior, class_prior=class_prior), counts)

    else:
        warn_of_one_class(targets)

        def fit(posterior: Tensor) -> None:
            calibration.fit(log_probs, posterior, class_prior=class_prior)

    frequencies = torch.ones(wide.shape[-1]) if class_prior is None else class_prior
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        log_beliefs = wide.log_softmax(-1)  # uncalibrated, even if the calibration was fitted
        for _ in range(EM_STEPS):
            # The labels follow the class frequencies of the held-out data.
            beliefs = (log_beliefs + frequencies.to(log_beliefs).log()).softmax(-1)
            fit(label_posterior(beliefs, labels, noise_matrix.to(beliefs.device)))
            log_beliefs = calibration(log_probs)
    return calibration


def _counts_beyond_noise(labels: Tensor, noise_matrix: Tensor) -> Tensor:
    """Return a lower bound of each class's count (C,) from noisy labels (N, C).

    It is the estimate less three standard errors, under the hypothesis that the class does not
    occur: then its labels all come from samples of other classes.
    """
    given = labels.sum(0)
    inverse: Tensor = torch.linalg.pinv(noise_matrix)
    counts = (given @ inverse).clamp_min(0.0)
    others = (given - counts.unsqueeze(-1) * noise_matrix).clamp_min(0.0)
    errors = (others * inverse.T.square()).sum(-1).sqrt()
    return (counts - 3.0 * errors).clamp_min(0.0)
