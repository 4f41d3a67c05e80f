"""Calibrate a trained model in one call."""

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance.calibration.branches import BranchTemperatures, check_fusion
from reliability_balance.calibration.collecting import collect_outputs, scores_of
from reliability_balance.calibration.fitting import (
    FEWEST_FOR_CURVE,
    effective_count,
    held_out,
    significant_temperature,
    warn_of_one_class,
)
from reliability_balance.calibration.scaling import (
    Calibration,
    TemperatureScaling,
    fit_with_noise,
)
from reliability_balance.calibration.top_label import TopLabelScaling
from reliability_balance.core.balancer import ReliabilityBalancer, find_balancer
from reliability_balance.core.class_prior import log_frequencies
from reliability_balance.core.output import BalancerOutput
from reliability_balance.core.recipes import get_recipe
from reliability_balance.core.settings import Configured
from reliability_balance.labels.noise_estimate import NoiseEstimate
from reliability_balance.labels.noise_matrix import true_frequencies, with_rate
from reliability_balance.labels.noise_rate import noise_rate_bounds
from reliability_balance.labels.robust_loss import RobustLoss

Noise = Tensor | NoiseEstimate | RobustLoss
STANDARD_ERRORS = 3.0
IDENTITY = "the identity"  # what was fitted, if nothing


class CalibratedOutput(NamedTuple):
    """Output of a :class:`CalibratedModel`: calibrated log-probabilities, and the model's output.

    Shape:
        - log_probs: (B, C)
        - probs: (B, C), their exponential
    """

    log_probs: Tensor
    output: BalancerOutput | Tensor

    @property
    def probs(self) -> Tensor:
        """Calibrated class probabilities."""
        return self.log_probs.exp()


class Calibrator(Configured):
    r"""The calibration that :func:`calibrate` fits.

    .. math:: \hat p = softmax(\log h(f(x)) + s)

    with :class:`BranchTemperatures` or :class:`TemperatureScaling` as f, :class:`TopLabelScaling`
    as h, and a shift s to the class frequencies of the deployment. Save it as an extra of the
    model.

    Args:
        num_classes: C.
        correction_weight: that of the :class:`ReliabilityBalancer`, whose branches get a
            temperature each; None: one temperature.

    Shape:
        - output: a :class:`BalancerOutput` or logits (B, C); returns (B, C) log-probabilities.

    State:
        ``scaling`` and ``curve``, the two modules; ``log_shift`` (C,), a buffer.

    Raises:
        TypeError: on another output.
        ValueError: on wrong shapes or values.

    Example:
        >>> calibrator = Calibrator(3)  # not fitted yet: unchanged
        >>> calibrator(torch.zeros(1, 3)).exp()
        tensor([[0.3333, 0.3333, 0.3333]])
    """

    SETTINGS: ClassVar = {"num_classes": int, "correction_weight": float | None}

    log_shift: Tensor

    def __init__(self, num_classes: int, correction_weight: float | None = None) -> None:
        super().__init__()
        checks.at_least("num_classes", num_classes, 2)
        self.num_classes = num_classes
        self.correction_weight = correction_weight
        self.scaling: Calibration = (
            TemperatureScaling()
            if correction_weight is None
            else BranchTemperatures(correction_weight=correction_weight)
        )
        self.curve = TopLabelScaling()
        self.register_buffer("log_shift", torch.zeros(num_classes))

    def forward(self, output: BalancerOutput | Tensor) -> Tensor:
        """Return the calibrated log-probabilities."""
        checks.width("output", scores_of(output), self.num_classes)
        log_probs: Tensor = self.curve(self.scaling(self._inputs(output)))
        return (log_probs + self.log_shift.to(log_probs.dtype)).log_softmax(-1)

    def _inputs(self, output: BalancerOutput | Tensor) -> BalancerOutput | Tensor:
        return scores_of(output) if self.correction_weight is None else output

    def fit(
        self, output: BalancerOutput | Tensor, labels: Tensor, *, class_prior: Tensor | None = None
    ) -> Self:
        """Fit both modules to clean labels, or one temperature if there are few.

        With fewer than 100 samples (Kish's effective sample size, if they are weighted) more
        parameters overfit. Then it fits one temperature, and keeps it at 1 if a likelihood-ratio
        test does not reject that (p >= 0.05).

        Args:
            output: held-out outputs of the model.
            labels: their class indices, or class probabilities.
            class_prior: frequency or count of each class in the held-out data, > 0, if `output` is
                for evenly frequent classes. None: no importance weights.

        Shape:
            - output: of N samples; labels: (N,) int64 or (N, C) floating; class_prior: (C,).

        Raises:
            TypeError: on a wrong dtype, or another output.
            ValueError: on wrong shapes or values.

        Warns:
            UserWarning: if all samples are of one class, or if there are fewer than 100.
        """
        inputs = self._inputs(output)
        scores, targets = held_out(scores_of(output), labels, "output", class_prior=class_prior)
        if effective_count(targets) < FEWEST_FOR_CURVE:
            warn_of_one_class(targets)
            self._fit_one_temperature(inputs, scores, targets)
            return self
        self.scaling.fit(inputs, labels, class_prior=class_prior)
        self.curve.fit(self.scaling(inputs), labels, class_prior=class_prior)
        return self

    @property
    def fitted(self) -> str:
        """What was fitted, such as "one temperature"; "the identity" if nothing."""
        temperatures = self._temperatures()
        unchanged = TopLabelScaling().coefficients.to(self.curve.coefficients)
        is_each = len(temperatures) > 1 and bool((temperatures[:-1] != 1.0).any())
        parts = []
        if is_each or float(temperatures[-1]) != 1.0:
            parts.append("a temperature per branch" if is_each else "one temperature")
        if not torch.equal(self.curve.coefficients, unchanged):
            parts.append("top-label scaling")
        return ", then ".join(parts) or IDENTITY

    def _temperatures(self) -> Tensor:
        """Return a view of the temperatures; the last is that of the fused distribution."""
        if isinstance(self.scaling, BranchTemperatures):
            return self.scaling.temperatures
        return cast(TemperatureScaling, self.scaling).temperature.view(1)

    def _fit_one_temperature(
        self, output: BalancerOutput | Tensor, scores: Tensor, targets: Tensor
    ) -> None:
        """Fit a temperature of the fused distribution alone, and warn."""
        self.curve = TopLabelScaling().to(self.log_shift.device)
        temperatures = self._temperatures().fill_(1.0)
        if isinstance(self.scaling, BranchTemperatures):
            fused = self.scaling(output).to(scores)
            check_fusion(fused, scores, self.scaling.correction_weight)
        found = significant_temperature(scores, targets, temperatures.dtype)
        temperatures[-1] = found
        fitted = f"one temperature, {float(found):.2f}, was fitted"
        kept = "the probabilities are unchanged, since no temperature is significantly better"
        checks.warn(
            f"calibration needs at least {FEWEST_FOR_CURVE} held-out samples; got "
            f"{effective_count(targets):.0f} (effective sample size): "
            f"{kept if float(found) == 1.0 else fitted}"
        )


class CalibratedModel(nn.Module):
    """A model with calibrated probabilities, as :func:`calibrate` returns it.

    Args:
        model: gives a :class:`BalancerOutput`, or logits.
        calibrator: fitted to its outputs, for the same kind.

    Shape:
        - inputs: as of the model; returns a :class:`CalibratedOutput`.
    """

    def __init__(self, model: nn.Module, calibrator: Calibrator) -> None:
        super().__init__()
        self.model = model
        self.calibrator = calibrator

    def forward(self, *args: Any, **kwargs: Any) -> CalibratedOutput:
        """Return calibrated log-probabilities, and the model's own output."""
        output = self.model(*args, **kwargs)
        return CalibratedOutput(self.calibrator(output), output)


@torch.no_grad()
def calibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    noise: Noise | None = None,
    prior: Tensor | None = None,
) -> CalibratedModel:
    """Calibrate a trained model on held-out data.

    Fits :class:`BranchTemperatures` if the model has a balancer, else :class:`TemperatureScaling`,
    then :class:`TopLabelScaling`. With noisy labels, which do not support as many parameters, it
    fits :class:`TemperatureScaling` alone. With fewer than 100 samples it fits one temperature, or
    none if that is not significantly better (:meth:`Calibrator.fit`).

    If the model predicts for evenly frequent classes, as after training with :class:`RobustLoss`,
    samples are weighted by the inverse frequency of their classes (:func:`assumes_even_classes`).
    Where only the held-out labels tell that, their class frequencies must be those of the training
    labels.

    Args:
        model: gives a :class:`BalancerOutput`, or logits. Its mode is restored afterwards.
        loader: held-out batches (inputs, labels), as for :func:`diagnose`. The labels must hold
            every class.
        noise: noise of the held-out labels. A matrix T_ck = P(label k | class c) is used as it is.
            A criterion or an estimate of the training labels gives the directions of the noise; its
            rate is estimated anew from the held-out labels, by :func:`labels.noise_rate_bounds`.
            None: the labels are correct.
        prior: class frequencies of the deployment, > 0; counts will do. None: predictions keep the
            class frequencies that the model assumes: even ones after :class:`RobustLoss`. Those of
            any other model, as one without a balancer, are taken to be the held-out frequencies.

    Shape:
        - noise: (C, C); prior: (C,).

    Raises:
        TypeError: on wrong types, and on outputs of another kind.
        ValueError: on wrong shapes or values; if a class has no held-out label; and if noise cannot
            be corrected, because a class is as often labelled as another one, or the criterion's
            model does not predict its labels.

    Warns:
        UserWarning: if there are fewer than 100 clean held-out samples, or if it is not certain
            whether predictions are for evenly frequent classes.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> batches = [(torch.randn(200, 4), torch.arange(200) % 2)]
        >>> calibrated = calibrate(model, batches)
        >>> calibrated(torch.randn(3, 4)).probs.shape
        torch.Size([3, 2])
    """
    output, labels = collect_outputs(model, loader)
    scores = scores_of(output)
    num_classes = scores.shape[1]
    _check_every_class(labels, num_classes)
    if prior is not None:
        checks.class_prior(prior, num_classes, "prior")
        checks.class_prior_values(prior, "prior")
    balancer = find_balancer(model)
    weight = 1.0 if balancer is None else balancer.correction_weight
    has_branches = isinstance(output, BalancerOutput) and noise is None
    calibrator = Calibrator(num_classes, weight if has_branches else None)
    matrix = None if noise is None else _noise_matrix(noise, scores, labels)
    frequencies = (
        labels.bincount(minlength=num_classes).double()
        if matrix is None
        else true_frequencies(labels, matrix)
    )
    is_even = balancer is not None and assumes_even_classes(balancer, scores, labels)
    weights = frequencies if is_even else None
    if matrix is None:
        calibrator.fit(output, labels, class_prior=weights)
    else:
        fit_with_noise(calibrator.scaling, scores, labels, matrix, class_prior=weights)
    if prior is not None:
        shift = log_frequencies(prior.cpu())
        calibrator.log_shift.copy_(shift if is_even else shift - log_frequencies(frequencies))
    device = next((each.device for each in model.parameters()), labels.device)
    return CalibratedModel(model, calibrator.to(device))


def assumes_even_classes(balancer: ReliabilityBalancer, scores: Tensor, labels: Tensor) -> bool:
    r"""Return whether a model predicts for evenly frequent classes, or for those of its training.

    An uneven `class_prior` of the balancer proves the former, a recipe without `logit_adjustment`
    the latter. Without either, the model may come from :class:`RobustLoss` on even classes or from
    :class:`ReliabilityLoss` on any. Then held-out labels decide: whether predictions have a higher
    likelihood after :func:`core.with_class_prior` with the labels' frequencies. This assumes that
    held-out data have the class frequencies of the training labels; otherwise it may be wrong.

    Args:
        balancer: the model's.
        scores: its log-probabilities of held-out samples, or logits.
        labels: their class indices.

    Shape:
        - scores: (N, C) floating; labels: (N,) int64.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values, or no samples.

    Warns:
        UserWarning: if the mean difference of the log-likelihoods is below three standard errors,
            and the labels are significantly uneven.

    Example:
        >>> balancer = ReliabilityBalancer(8, num_classes=2)  # trained by ReliabilityLoss
        >>> labels = (torch.arange(1000) % 10 == 0).long()
        >>> assumes_even_classes(balancer, torch.tensor([[0.9, 0.1]] * 1000).log(), labels)
        False
    """
    checks.indices("labels", labels)
    wide, _ = held_out(scores, labels, "scores")
    checks.width("scores", scores, balancer.num_classes)
    prior = balancer.class_prior
    if not torch.allclose(prior, prior.mean()):
        return True
    if not get_recipe(balancer.recipe).logit_adjustment:
        return False
    counts = labels.bincount(minlength=scores.shape[1]).double()
    plain = wide.log_softmax(-1)
    shifted = (plain + log_frequencies(counts.clamp_min(0.5))).log_softmax(-1)
    gain = (shifted - plain).gather(1, labels.unsqueeze(1))
    is_even = bool(gain.mean() >= 0)
    is_certain = gain.mean().abs() > STANDARD_ERRORS * gain.std(correction=0) / len(gain) ** 0.5
    if not is_certain and _is_uneven(counts):
        taken = "evenly frequent classes" if is_even else "the class frequencies of the labels"
        checks.warn(
            "it is not certain whether the model predicts for evenly frequent classes; predictions "
            f"are taken to be for {taken}. If it was trained with `ReliabilityLoss`, give its "
            "balancer a recipe with logit_adjustment=False"
        )
    return is_even


def _is_uneven(counts: Tensor) -> bool:
    """Return whether Pearson's statistic is far above its expectation for even classes."""
    expected, degrees = counts.mean(), len(counts) - 1
    statistic = float((counts - expected).square().sum() / expected)
    return bool(statistic > degrees + STANDARD_ERRORS * (2.0 * degrees) ** 0.5)


def _check_every_class(labels: Tensor, num_classes: int) -> None:
    counts = labels.bincount(minlength=num_classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            "`loader` must have labels of every class to calibrate it; got none of "
            f"{checks.listed(map(str, missing))}"
        )


def _noise_matrix(noise: Noise, scores: Tensor, labels: Tensor) -> Tensor:
    """Return the noise matrix of the held-out labels (C, C), in float64."""
    num_classes = scores.shape[1]
    if isinstance(noise, RobustLoss) and noise.caution:
        raise ValueError(f"`noise` must be of a model that predicts its labels: {noise.caution}")
    is_learned = isinstance(noise, RobustLoss | NoiseEstimate)
    if isinstance(noise, RobustLoss):
        matrix = noise.noise_matrix
    else:
        matrix = noise.matrix.value if isinstance(noise, NoiseEstimate) else noise
    checks.floating("noise", matrix)
    if matrix.shape != (num_classes, num_classes):
        raise ValueError(
            f"`noise` must be of {num_classes} classes, as the model; got a matrix of shape "
            f"{tuple(matrix.shape)}"
        )
    checks.probability_values("rows of `noise`", matrix)
    matrix = matrix.detach().cpu().double()
    if is_learned:
        confidence, classes = numerics.widen(scores).softmax(-1).max(-1)
        rate = noise_rate_bounds(confidence.clamp_max(1.0), (classes == labels).float()).value
        matrix = with_rate(matrix, float(rate), true_frequencies(labels, matrix))
    correct = matrix.diagonal()
    others = matrix.clone().fill_diagonal_(0.0).amax(-1)
    if bool((correct <= others).any()):
        worst = int((correct - others).argmin())
        raise ValueError(
            "`noise` must leave the correct label the most frequent of each class; got frequency "
            f"{float(correct[worst]):.2f} for class {worst}, and {float(others[worst]):.2f} for "
            "another label"
        )
    return matrix
