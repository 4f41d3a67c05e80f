"""Temperature scaling of log-probabilities, and fitting of its parameters."""

from collections.abc import Callable

import torch
from torch import Tensor

from reliability_balance import functional as RF

LBFGS_STEPS = 200


def tempered(scores: Tensor, temperature: Tensor) -> Tensor:
    """Return the log-probabilities of (..., C) scores at a temperature ()."""
    wide = RF.widen(scores)
    return (wide / temperature.to(wide.dtype)).log_softmax(-1)


def sharpen(probs: Tensor, temperature: float, bias: Tensor | float = 0.0) -> Tensor:
    """Return the softmax of :func:`sharpened_scores`."""
    return sharpened_scores(probs, temperature, bias).softmax(-1)


def sharpened_scores(probs: Tensor, temperature: float, bias: Tensor | float = 0.0) -> Tensor:
    """Return log-probabilities divided by a temperature, plus a bias; finite where `probs` is 0."""
    tiny = torch.finfo(probs.dtype).tiny
    return probs.clamp_min(tiny).log() / temperature + bias


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
