"""Detect training steps that pass the same samples more than once, which would count as epochs."""

import torch
from torch import Tensor


class RepeatedCalls:
    """Detector of three successive batches that each come more than once in a row.

    One repeated batch can be an epoch: the batch may hold all samples. Three different batches,
    each repeated, cannot: the last batch of an epoch may be the first of the next one, but twice in
    succession only if an epoch has two batches, which then alternate.
    """

    def __init__(self) -> None:
        self._last: list[Tensor] = []  # up to three different batches, newest first
        self._repeated = 0  # how many batches in a row before the newest were repeated
        self._repeats = 0  # repetitions of the newest batch

    def check(self, samples: Tensor) -> None:
        """Record the sorted sample indices (B,) of one call.

        Raises:
            ValueError: if this is the third repeated batch in a row.
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
