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

A model that was trained with `class_prior` answers for evenly frequent classes. Held-out data with
other frequencies then need importance weights: with ``fit(..., class_prior=...)`` each sample
weighs the inverse of its class's frequency, so that all classes count alike. This fits the expected
likelihood on data with even classes (Shimodaira, Journal of Statistical Planning and Inference
2000, https://doi.org/10.1016/S0378-3758(00)00115-4). To turn the answers to the held-out
frequencies before the fit would fit the frequent classes instead.

What a fit promises: on the data that it was fitted on, the mean negative log-likelihood, without
the prior and with the weights, is not above that of the predictions as they were, but for rounding.
Each fit is compared with that as it will be stored, and is not kept where it is not better.
"""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance import functional as RF
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
    """What all calibrations have in common.

    They take log-probabilities, and :class:`branch_calibration.BranchTemperatures` takes a
    :class:`BalancerOutput`.
    """

    def __call__(self, log_probs: Any, /) -> Tensor:
        """Return the calibrated log-probabilities."""

    def fit(self, log_probs: Any, labels: Tensor, /, *, class_prior: Tensor | None = None) -> Any:
        """Fit to held-out data."""


CalibrationT = TypeVar("CalibrationT", bound=Calibration)


class TemperatureScaling(Configured):
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
        """Find the temperature.

        Args:
            log_probs: held-out logits or log-probabilities.
            labels: their class indices, or class probabilities.
            class_prior: how frequent each class is in the held-out data, > 0, where `log_probs` are
                for evenly frequent classes; counts will do. None: held-out data and answers have
                the same class frequencies.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64 or (N, C) floating; class_prior: (C,).

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or probabilities instead of logarithms.

        Warns:
            UserWarning: if all samples are of one class.
        """
        scores, targets = held_out(log_probs, labels, class_prior=class_prior)
        warn_of_one_class(targets)
        self.temperature.copy_(common_temperature(scores, targets, self.temperature.dtype))
        return self


class VectorScaling(Configured):
    r"""Scale and shift each class's score: temperature scaling that also corrects class biases.

    .. math:: \hat p = softmax(w \odot \log p + b)

    Fitted by L-BFGS on the negative log-likelihood of the held-out labels, from where
    :class:`TemperatureScaling` ends, w = 1/T and b = 0, under the weak prior told above, of w T
    and b. It keeps that where nothing is better on the held-out labels, which leaves w = 1 where no
    temperature is either. It can change the predicted class.

    A class of fewer than 5 held-out samples says too little of itself, and one without any would
    only be ruled out. It keeps the common temperature and a bias of 0, and `fit` warns. The other
    classes are fitted by the conditional likelihood, given that the class is one of them, so that
    nothing is gained by a shift from the classes that are left out to them. The prior's width for
    the weight and bias of a class grows with k as told above, but not beyond the class's own
    samples, nor those of all others.

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
        wide = RF.widen(log_probs)
        return (wide * self.weight.to(wide.dtype) + self.bias.to(wide.dtype)).log_softmax(-1)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor, *, class_prior: Tensor | None = None) -> Self:
        """Find weight and bias.

        Args:
            log_probs: held-out logits or log-probabilities.
            labels: their class indices, or class probabilities.
            class_prior: how frequent each class is in the held-out data, > 0, where `log_probs` are
                for evenly frequent classes; counts will do. None: held-out data and answers have
                the same class frequencies.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64 or (N, C) floating; class_prior: (C,).

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or probabilities instead of logarithms.

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
        """Fit to what `held_out` gave, for classes that so many samples (C,) are known of."""
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
    r"""Fit a calibration to held-out labels that are as noisy as those of the training.

    By turns the true classes' :func:`posterior.label_posterior`, and the calibration fitted to it:
    this is expectation maximisation of the noisy labels' likelihood under the noise matrix, and of
    the calibration's own prior. :class:`VectorScaling` fits the weight and bias of classes alone
    that the labels show at least 5 samples of, beyond three standard errors of the noise.

    Args:
        calibration: any of this library; it is fitted in place, and returned.
        log_probs: what its own `fit` takes: held-out logits or log-probabilities, or for
            :class:`branch_calibration.BranchTemperatures` a :class:`BalancerOutput`.
        labels: their noisy class indices.
        noise_matrix: T_{ck}, how often class c is labelled k, such as
            :attr:`targets.RefurbishedTargets.noise_matrix`.
        class_prior: how frequent each true class is in the held-out data, > 0, where `log_probs`
            are for evenly frequent classes; counts will do. None: held-out data and answers have
            the same class frequencies.

    Shape:
        - log_probs: (N, C) floating, or an output of N samples; labels: (N,) int64; noise_matrix:
          (C, C) floating; class_prior: (C,).

    Raises:
        TypeError: on a wrong dtype, or if `log_probs` is not what the calibration takes.
        ValueError: on wrong shapes or values, rows of the matrix that do not sum to 1, or
            probabilities instead of logarithms.

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
        log_beliefs = wide.log_softmax(-1)  # and not what an earlier fit made of it
        for _ in range(EM_STEPS):
            # The labels were given where classes are as frequent as in the held-out data.
            beliefs = (log_beliefs + frequencies.to(log_beliefs).log()).softmax(-1)
            fit(label_posterior(beliefs, labels, noise_matrix.to(beliefs.device)))
            log_beliefs = calibration(log_probs)
    return calibration


def _counts_beyond_noise(labels: Tensor, noise_matrix: Tensor) -> Tensor:
    """How many samples of each class (C,) noisy labels (N, C) show, less three standard errors.

    The error is that of a class that does not occur: its count is then made of the labels that
    samples of other classes got.
    """
    given = labels.sum(0)
    inverse: Tensor = torch.linalg.pinv(noise_matrix)
    counts = (given @ inverse).clamp_min(0.0)
    others = (given - counts.unsqueeze(-1) * noise_matrix).clamp_min(0.0)
    errors = (others * inverse.T.square()).sum(-1).sqrt()
    return (counts - 3.0 * errors).clamp_min(0.0)
