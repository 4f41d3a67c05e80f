"""Gradient checkpointing that keeps batch norm's running statistics correct."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_segment(segment: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """Call a module; with `recompute` store only its inputs and run it again in the backward pass.

    Nothing is recomputed in eval mode or under ``torch.compile``, which decides itself what to
    store.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> run_segment(layer, torch.randn(4, 2), recompute=True).shape
        torch.Size([4, 3])
    """
    if not (recompute and segment.training) or torch.compiler.is_compiling():
        return segment(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _running_statistics_kept(segment)

    return checkpoint(segment, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _running_statistics_kept(segment: nn.Module) -> Iterator[None]:
    """Prevent the second pass over a batch from updating the running statistics again."""
    norms = [module for module in segment.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not by track_running_stats: the second pass must save the same tensors as the first.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
