"""Say what to do when the memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def advising_out_of_memory(advice: str) -> Iterator[None]:
    """Turn torch's error into one that tells the way out.

    Raises:
        MemoryError: with the advice, where the block ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"the memory does not suffice: {advice}") from error
