"""What the scalings of log-probabilities have in common."""

from collections.abc import Callable

import torch
from torch import Tensor

from reliability_balance import functional as RF

LBFGS_STEPS = 200


def tempered(scores: Tensor, temperature: Tensor) -> Tensor:
    """Log-probabilities of (..., C) scores at a temperature ()."""
    wide = RF.widen(scores)
    return (wide / temperature.to(wide.dtype)).log_softmax(-1)


def sharpen(probs: Tensor, temperature: float, tilt: Tensor | float = 0.0) -> Tensor:
    """Softmax of :func:`sharpened_scores`."""
    return sharpened_scores(probs, temperature, tilt).softmax(-1)


def sharpened_scores(probs: Tensor, temperature: float, tilt: Tensor | float = 0.0) -> Tensor:
    """Log-probabilities over a temperature, plus a tilt; zeros stay next to zero."""
    tiny = torch.finfo(probs.dtype).tiny
    return probs.clamp_min(tiny).log() / temperature + tilt


def prior_weight(scores: Tensor, targets: Tensor) -> float:
    """What half a squared distance from no change weighs beside the mean over the samples.

    This is the normal prior of :mod:`calibration`: its standard deviation is 1 plus
    :func:`rarer_answers`.
    """
    return 1.0 / (effective_count(targets) * (1.0 + rarer_answers(scores, targets)) ** 2)


def rarer_answers(scores: Tensor, targets: Tensor) -> float:
    """Count the wrong answers, or the right ones if these are fewer, in effective samples."""
    total, effective = float(targets.sum()), effective_count(targets)
    right = float(targets.gather(-1, scores.argmax(-1, keepdim=True)).sum())
    # Soft labels sum to 1 only nearly, so a count may come out just below 0.
    return max(0.0, min(right, total - right)) * effective / total


def effective_count(targets: Tensor) -> float:
    """Kish's effective sample size of targets (N, C), whose rows sum to the samples' weights."""
    weights = targets.sum(-1)
    return float(weights.sum().square() / weights.square().sum())


def settle(
    loss: Callable[[Tensor], Tensor],
    parameters: Callable[[Tensor], Tensor],
    start: Tensor,
    weight: float | Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Parameters of least loss and prior, rounded to the dtype that they will be stored in.

    `parameters` makes them of free values, which go from `start` and are drawn to 0 by a prior of
    that weight, one for all or one for each. Where the loss is not below that at the start, the
    start is the answer.
    """
    free = start.clone().requires_grad_()
    minimise(lambda: loss(parameters(free)) + (weight / 2 * free.square()).sum(), [free])
    found, before = (parameters(each).to(dtype) for each in (free.detach(), start))
    # Judged as they will be stored.
    return found if bool(loss(found) < loss(before)) else before


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    """Move parameters to where a smooth loss is least, by L-BFGS, also where gradients are off."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
