"""Steps that hand in the same samples more than once, which would count as so many epochs."""

import torch
from torch import Tensor


class RepeatedCalls:
    """Notice where each of three batches in a row comes more than once in a row.

    The same batch again is an epoch where it holds all samples. Three batches that differ, each of
    them repeated, cannot be epochs: the last batch of an epoch may come first in the next one, but
    with the batches of two epochs this happens only where two batches make an epoch, and alternate.
    """

    def __init__(self) -> None:
        self._last: list[Tensor] = []  # up to three different batches, the newest first
        self._repeated = 0  # of those before the newest, how many in a row were repeated
        self._repeats = 0  # of the newest

    def check(self, samples: Tensor) -> None:
        """Take in the samples (B,) of one call, sorted.

        Raises:
            ValueError: if they are the third batch of this kind.
        """
        if self._last and _same(samples, self._last[0]):
            self._repeats += 1
        else:
            self._repeated = self._repeated + 1 if self._repeats else 0
            self._last = [samples, *self._last[:2]]
            self._repeats = 0
        if self._repeats and self._repeated >= 2 and not _same(samples, self._last[2]):
            raise ValueError(
                "`index` must name the samples of a step once; got each of three batches more than "
                "once in a row, which would count as more epochs. Call with update=False from the "
                "second time on (SAM), or give RobustLoss the other view as `second`"
            )


def _same(first: Tensor, second: Tensor) -> bool:
    return first.device == second.device and torch.equal(first, second)
