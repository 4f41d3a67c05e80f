"""Numerics that all equations share: dtypes, autocast, and softmax over few classes."""

import contextlib

import torch
from torch import Tensor

# Rows of more classes are vectorized by torch.
FEW_CLASSES = 32


def widen(tensor: Tensor, *others: Tensor) -> Tensor:
    """Cast `tensor` to the common dtype of all arguments, at least float32."""
    dtype = torch.float32
    for each in (tensor, *others):
        if each.dtype != dtype:
            dtype = torch.promote_types(dtype, each.dtype)
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def log_softmax(scores: Tensor) -> Tensor:
    """Return the log-softmax of (..., C).

    Few classes are computed with classes first in memory: torch does not vectorize such rows.
    """
    if scores.shape[-1] > FEW_CLASSES:
        return scores.log_softmax(-1)
    return scores.movedim(-1, 0).log_softmax(0).movedim(0, -1)


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax of (..., C), laid out like :func:`log_softmax`."""
    if scores.shape[-1] > FEW_CLASSES:
        return scores.softmax(-1)
    return scores.movedim(-1, 0).softmax(0).movedim(0, -1)


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Disable autocast for a matmul; a null context where autocast is off."""
    device = tensor.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
