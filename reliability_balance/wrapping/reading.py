"""Determine how a classifier's output follows from its last layer: pooling and activation."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reliability_balance import numerics
from reliability_balance.core.attention import pool_tokens

Pooling = Literal["vector", "token", "mean"]
Activation = Literal["none", "softmax", "log_softmax"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda scores: scores,
    "softmax": lambda scores: scores.softmax(-1),
    "log_softmax": lambda scores: scores.log_softmax(-1),
}


class Reading(NamedTuple):
    """How the model's output follows from the scores that its last layer gives.

    ``pooling`` is "vector" where the scores are (B, C), "token" where the model picks one of
    (B, T, C), and "mean" where it averages them. ``activation`` comes after that.
    """

    pooling: Pooling
    activation: Activation

    def activate(self, scores: Tensor) -> Tensor:
        """Apply the model's final activation to scores."""
        return scores if self.activation == "none" else ACTIVATIONS[self.activation](scores)


def find_readings(
    value: Tensor, scores: Tensor, prediction: Tensor, mask: Tensor | None
) -> list[Reading]:
    """Find how `prediction` (B, C) follows from `scores`, the layer's output for `value`.

    Returns several readings if they give the same embedding, as for a single token, and none if
    nothing fits.

    Raises:
        ValueError: if two readings fit that give different embeddings, or if all scores are equal.
    """
    if not fits(value, scores, prediction):
        return []
    for activation, function in ACTIVATIONS.items():
        given = function(numerics.widen(scores))
        readings = [
            Reading(pooling, activation)
            for pooling in _poolings(scores)
            if _same(
                pool(pooling, given if activation != "none" else scores, given, prediction, mask),
                prediction,
                is_exact=activation == "none" and pooling != "mean",
            )
        ]
        if not readings:
            continue
        if _are_constant(scores):
            raise ValueError(
                "`model` must give different logits to different samples and tokens, so that its "
                "embedding can be identified; got equal ones, as from a last layer of zeros"
            )
        rows = [pool(reading.pooling, value, given, prediction, mask) for reading in readings]
        if not all(_same(row, rows[0], is_exact=False) for row in rows):
            raise ValueError(
                "`model` must give logits that show whether it picks a token or averages all; got "
                "logits that both explain"
            )
        return readings
    return []


def fits(value: Tensor, scores: Tensor, prediction: Tensor) -> bool:
    """Return whether `value` (B, ..., D), `scores` (B, ..., C) and `prediction` (B, C) match."""
    return (
        prediction.ndim == 2
        and scores.ndim >= 2
        and scores.shape[-1] == prediction.shape[-1]
        and scores.shape[0] == prediction.shape[0]
        and value.shape[:-1] == scores.shape[:-1]
    )


def _poolings(scores: Tensor) -> tuple[Pooling, ...]:
    return ("vector",) if scores.ndim == 2 else ("token", "mean")


def pool(
    pooling: Pooling, value: Tensor, scores: Tensor, prediction: Tensor, mask: Tensor | None
) -> Tensor:
    """Reduce `value` (B, ..., D) as the model reduces `scores` to `prediction` (B, C)."""
    if pooling == "vector":
        return value
    tokens = value.flatten(1, -2)
    if pooling == "mean":
        return pool_tokens(tokens, mask)
    chosen = _chosen_token(scores.flatten(1, -2), prediction, mask)
    return tokens.take_along_dim(chosen.reshape(-1, 1, 1), 1).squeeze(1)


def _chosen_token(scores: Tensor, prediction: Tensor, mask: Tensor | None) -> Tensor:
    """Return the positions (B,) of the tokens that the model's output comes from.

    In low precision two tokens can have the same scores. Then the last one that is not padding is
    taken, as models do.
    """
    gap = (numerics.widen(scores) - numerics.widen(prediction).unsqueeze(1)).abs().sum(-1)
    order = torch.arange(1, gap.shape[1] + 1, device=gap.device)
    if mask is not None:
        order = order + gap.shape[1] * mask
    return ((gap <= gap.amin(1, keepdim=True)) * order).argmax(1)


def _are_constant(scores: Tensor) -> bool:
    """Return whether all rows of (..., C) are equal or, for a single row, whether it is zero."""
    rows = scores.flatten(0, -2)
    return bool((rows == (rows[:1] if len(rows) > 1 else 0.0)).all())


def _same(one: Tensor, other: Tensor, *, is_exact: bool) -> bool:
    """Return whether two tensors are equal in the coarser dtype, up to rounding unless exact."""
    coarser = max((one.dtype, other.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    if is_exact:
        return torch.equal(one.to(coarser), other.to(coarser))
    wide, wanted = numerics.widen(one, other), numerics.widen(other, one)
    relative = max(4 * torch.finfo(coarser).eps, 1e-5)
    # Relative to the median, since one class may be masked by a huge number.
    usual = wanted.abs().median() if wanted.numel() else 0.0
    close = (wide - wanted).abs() <= relative * (wanted.abs() + usual)
    return bool((close | (wide == wanted)).all())
