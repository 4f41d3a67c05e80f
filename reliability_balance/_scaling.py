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
    """Softmax of log-probabilities over a temperature, plus a tilt; zeros stay next to zero."""
    tiny = torch.finfo(probs.dtype).tiny
    return (probs.clamp_min(tiny).log() / temperature + tilt).softmax(-1)


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
