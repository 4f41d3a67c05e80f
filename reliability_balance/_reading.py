"""How a classifier gets from what enters its last layer to its answer, found out and proven."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance.attention import pool_tokens

Pooling = Literal["vector", "token", "mean"]
Activation = Literal["none", "softmax", "log_softmax"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda scores: scores,
    "softmax": lambda scores: scores.softmax(-1),
    "log_softmax": lambda scores: scores.log_softmax(-1),
}


class Reading(NamedTuple):
    """What the model does around its last layer, which gives scores.

    ``pooling`` is "vector" where the scores are (B, C), "token" where the model picks one of
    (B, T, C), and "mean" where it averages them; ``activation`` is what comes after.
    """

    pooling: Pooling
    activation: Activation

    def activate(self, scores: Tensor) -> Tensor:
        """Scores as the model makes answers of them."""
        return scores if self.activation == "none" else ACTIVATIONS[self.activation](scores)


def find_reading(
    value: Tensor, scores: Tensor, answer: Tensor, mask: Tensor | None
) -> Reading | None:
    """Find how `answer` (B, C) comes from `scores`, the layer's output for `value`; None if not.

    Raises:
        ValueError: if two ways fit that disagree about the embedding.
    """
    if answer.ndim != 2 or scores.shape[:1] != answer.shape[:1]:
        return None
    if scores.shape[-1] != answer.shape[-1] or value.shape[:-1] != scores.shape[:-1]:
        return None
    poolings: tuple[Pooling, ...] = ("vector",) if scores.ndim == 2 else ("token", "mean")
    for activation, function in ACTIVATIONS.items():
        given = function(RF.widen(scores))
        fitting = [
            pooling
            for pooling in poolings
            if _same(pool(pooling, given, given, answer, mask), answer)
        ]
        if len(fitting) == 2:
            one, other = (pool(each, value, given, answer, mask) for each in fitting)
            if not _same(one, other):
                raise ValueError(
                    "`model` must give different logits to different tokens, to see which one it "
                    "answers for; got equal ones, as from a last layer of zeros"
                )
        if fitting:
            return Reading(fitting[0], activation)
    return None


def pool(
    pooling: Pooling, value: Tensor, scores: Tensor, answer: Tensor, mask: Tensor | None
) -> Tensor:
    """Reduce `value` (B, ..., D) as the model reduces `scores` (B, ..., C) to `answer` (B, C)."""
    if pooling == "vector":
        return value
    tokens = value.flatten(1, -2)
    if pooling == "mean":
        return pool_tokens(tokens, mask)
    chosen = _chosen_token(scores.flatten(1, -2), answer, mask)
    return tokens.take_along_dim(chosen.reshape(-1, 1, 1), 1).squeeze(1)


def _chosen_token(scores: Tensor, answer: Tensor, mask: Tensor | None) -> Tensor:
    """Positions (B,) of the tokens whose scores are the answer; of equal ones the last real one.

    Low precision can give two tokens the same scores; models that pick, pick the last.
    """
    gap = (RF.widen(scores) - RF.widen(answer).unsqueeze(1)).abs().sum(-1)
    if mask is not None:
        gap = gap.masked_fill(~mask, torch.inf)
    nearest = gap <= gap.amin(1, keepdim=True)
    return (nearest * torch.arange(1, gap.shape[1] + 1, device=gap.device)).argmax(1)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal but for rounding in the coarser of their dtypes."""
    precision = max(torch.finfo(each.dtype).eps for each in (one, other))
    wide, wanted = RF.widen(one, other), RF.widen(other, one)
    tolerance = max(4 * precision, 1e-5) * wanted.abs().amax().clamp_min(1e-6)
    return bool(((wide - wanted).abs() <= tolerance).all())
