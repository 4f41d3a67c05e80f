"""Held-out targets, the prior and the optimizers that all calibrations are fitted with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from reliability_balance import checks, numerics
from reliability_balance.labels.posterior import as_probabilities

LBFGS_STEPS = 200
# Range of inverse temperatures, and the bisection steps that reach double precision.
SHARPEST, FLATTEST, HALVINGS = 1e3, 1e-3, 80
# Samples that a class needs for parameters of its own: with fewer, the standard error of its
# frequency is about half of it (1 / sqrt(5)).
FEWEST = 5
# Effective samples that calibration needs for more than one temperature: with fewer, the curve of
# top-label scaling overfits.
FEWEST_FOR_CURVE = 100
SIGNIFICANT = 3.84  # 95 % quantile of chi-square with one degree of freedom


def tempered(scores: Tensor, temperature: Tensor) -> Tensor:
    """Return the log-probabilities of (..., C) scores at a temperature ()."""
    wide = numerics.widen(scores)
    return (wide / temperature.to(wide.dtype)).log_softmax(-1)


def prior_weight(scores: Tensor, targets: Tensor) -> float:
    """Return the weight of half the squared parameters beside the mean loss over the samples.

    It is the normal prior of :mod:`calibration`, with standard deviation 1 plus
    :func:`rarer_answers`.
    """
    return 1.0 / (effective_count(targets) * (1.0 + rarer_answers(scores, targets)) ** 2)


def rarer_answers(scores: Tensor, targets: Tensor) -> float:
    """Count wrong predictions, or correct ones if these are fewer, in effective samples."""
    total, effective = float(targets.sum()), effective_count(targets)
    right = float(targets.gather(-1, scores.argmax(-1, keepdim=True)).sum())
    # Soft labels sum to 1 only approximately, so a count may be slightly negative.
    return max(0.0, min(right, total - right)) * effective / total


def effective_count(targets: Tensor) -> float:
    """Return Kish's effective sample size; the rows of targets (N, C) sum to sample weights."""
    weights = targets.sum(-1)
    return float(weights.sum().square() / weights.square().sum())


def settle(
    loss: Callable[[Tensor], Tensor],
    parameters: Callable[[Tensor], Tensor],
    start: Tensor,
    weight: float | Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Minimise loss plus prior and return the parameters, rounded to the dtype they are stored in.

    `parameters` computes them from raw values, which start at `start` and have a normal prior
    around 0 of this weight, one for all or one for each. If the loss does not decrease, the
    parameters at the start are returned.
    """
    raw = start.clone().requires_grad_()
    minimise(lambda: loss(parameters(raw)) + (weight / 2 * raw.square()).sum(), [raw])
    found, before = (parameters(each).to(dtype) for each in (raw.detach(), start))
    # Compared after rounding.
    return found if bool(loss(found) < loss(before)) else before


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    """Minimise a smooth loss by L-BFGS, in place, also where gradients are disabled."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)


def held_out(
    log_probs: Tensor,
    labels: Tensor,
    name: str = "log_probs",
    *,
    class_prior: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Check the data of a fit; return scores and (N, C) targets in float64.

    The targets' rows sum to the samples' weights, which are 1 on average: 1 each, or with a
    `class_prior` the inverse frequency of their classes.
    """
    checks.distributions(name, log_probs)
    checks.rank(name, log_probs, "(N, C)", 2)
    checks.finite(name, log_probs)
    if len(log_probs) == 0:
        raise ValueError(f"`{name}` must hold at least 1 sample; got 0")
    sums = log_probs.sum(-1)
    if bool((log_probs >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        raise ValueError(
            f"`{name}` must be logits or log-probabilities; got rows that are non-negative and "
            "sum to 1, which are probabilities: take their logarithm"
        )
    num_classes = log_probs.shape[-1]
    checks.labels(labels, log_probs.shape[:1], num_classes)
    checks.label_values(labels, num_classes)
    scores = log_probs.detach().to(torch.float64)
    targets = as_probabilities(labels, scores).to(scores)
    if class_prior is not None:
        checks.class_prior(class_prior, num_classes)
        checks.class_prior_values(class_prior)
        targets = targets / class_prior.to(targets)
        targets = targets * (len(targets) / targets.sum())
    return scores, targets


def common_temperature(scores: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the temperature () that :class:`TemperatureScaling` fits to `held_out` data."""
    weight = prior_weight(scores, targets)
    weights = targets.sum(-1, keepdim=True)

    def slope(inverse: float) -> float:
        """Return the derivative of negative log-likelihood and prior by log(1/T)."""
        expected = ((scores * inverse).softmax(-1) * weights - targets) * scores * inverse
        return float(expected.sum(-1).mean()) + weight * math.log(inverse)

    unchanged = torch.ones((), dtype=dtype, device=scores.device)
    temperature = unchanged * (1.0 / _rising_root(slope, FLATTEST, SHARPEST))
    # Evaluated in the precision in which it is stored.
    found = F.cross_entropy(tempered(scores, temperature), targets)
    return temperature if bool(found < F.cross_entropy(scores, targets)) else unchanged


def significant_temperature(scores: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Return :func:`common_temperature`, or 1 if a likelihood-ratio test does not reject T = 1.

    If all predictions are right, or all wrong, T is not identified: 1.
    """
    if rarer_answers(scores, targets) == 0.0:
        return torch.ones((), dtype=dtype, device=scores.device)
    found = common_temperature(scores, targets, dtype)
    gain = F.cross_entropy(scores, targets) - F.cross_entropy(tempered(scores, found), targets)
    is_significant = 2.0 * effective_count(targets) * float(gain) > SIGNIFICANT
    return found if is_significant else torch.ones_like(found)


def warn_of_one_class(targets: Tensor) -> None:
    """Warn the caller of `fit` if the held-out data hold a single class."""
    present = (targets.sum(0) > 0).nonzero().flatten().tolist()
    if len(present) == 1:
        checks.warn(
            f"`labels` must hold several classes to calibrate all of them; got class {present[0]} "
            "alone: the confidence in other classes may be far off"
        )


def warn_of_scarce_classes(counts: Tensor) -> None:
    """Warn the caller of `fit` of classes with too few samples (C,)."""
    scarce = (counts < FEWEST).nonzero().flatten().tolist()
    if not scarce:
        return
    listed = checks.listed(f"{float(counts[each]):.3g} of class {each}" for each in scarce)
    checks.warn(
        f"`labels` must hold at least {FEWEST} samples of a class to fit its weight and bias; got "
        f"{listed}: these classes keep the common temperature and a bias of 0"
    )


def _rising_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a rising function by bisection on a log scale, or an end of the range."""
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
