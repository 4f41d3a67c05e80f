"""How a classifier gets from what its last layer gives to its answer, found out and proven."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance.core.attention import pool_tokens

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


def find_readings(
    value: Tensor, scores: Tensor, answer: Tensor, mask: Tensor | None
) -> list[Reading]:
    """Find how `answer` (B, C) comes from `scores`, the layer's output for `value`.

    More than one if they agree about the embedding, as for a single token; none if nothing fits.

    Raises:
        ValueError: if two ways fit that disagree, or scores that are all alike fit anything.
    """
    if not fits(value, scores, answer):
        return []
    for activation, function in ACTIVATIONS.items():
        given = function(RF.widen(scores))
        readings = [
            Reading(pooling, activation)
            for pooling in _poolings(scores)
            if _same(
                pool(pooling, given if activation != "none" else scores, given, answer, mask),
                answer,
                is_exact=activation == "none" and pooling != "mean",
            )
        ]
        if not readings:
            continue
        if _tell_nothing(scores):
            raise ValueError(
                "`model` must give different logits to different samples and tokens, to see what "
                "it answers for; got equal ones, as from a last layer of zeros"
            )
        rows = [pool(reading.pooling, value, given, answer, mask) for reading in readings]
        if not all(_same(row, rows[0], is_exact=False) for row in rows):
            raise ValueError(
                "`model` must pick a token or average all, and not so that both give the same "
                "logits; got logits that are both"
            )
        return readings
    return []


def fits(value: Tensor, scores: Tensor, answer: Tensor) -> bool:
    """Whether `scores` (B, ..., C) for `value` (B, ..., D) can become `answer` (B, C)."""
    return (
        answer.ndim == 2
        and scores.ndim >= 2
        and scores.shape[-1] == answer.shape[-1]
        and scores.shape[0] == answer.shape[0]
        and value.shape[:-1] == scores.shape[:-1]
    )


def _poolings(scores: Tensor) -> tuple[Pooling, ...]:
    return ("vector",) if scores.ndim == 2 else ("token", "mean")


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
    order = torch.arange(1, gap.shape[1] + 1, device=gap.device)
    if mask is not None:
        order = order + gap.shape[1] * mask
    return ((gap <= gap.amin(1, keepdim=True)) * order).argmax(1)


def _tell_nothing(scores: Tensor) -> bool:
    """Whether all rows of (..., C) are alike; of one row, whether it is zero."""
    rows = scores.flatten(0, -2)
    return bool((rows == (rows[:1] if len(rows) > 1 else 0.0)).all())


def _same(one: Tensor, other: Tensor, *, is_exact: bool) -> bool:
    """Whether two tensors are equal in the coarser of their dtypes, but for rounding if asked."""
    coarser = max((one.dtype, other.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    if is_exact:
        return torch.equal(one.to(coarser), other.to(coarser))
    wide, wanted = RF.widen(one, other), RF.widen(other, one)
    relative = max(4 * torch.finfo(coarser).eps, 1e-5)
    # Beside the median, as one class may be ruled out by a huge number.
    usual = wanted.abs().median() if wanted.numel() else 0.0
    close = (wide - wanted).abs() <= relative * (wanted.abs() + usual)
    return bool((close | (wide == wanted)).all())
