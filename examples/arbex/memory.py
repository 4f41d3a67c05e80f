"""Give advice on out-of-memory errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def advising_out_of_memory(advice: str) -> Iterator[None]:
    """Add advice to torch's out-of-memory error.

    Raises:
        MemoryError: with the advice, if the block runs out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"out of memory: {advice}") from error
