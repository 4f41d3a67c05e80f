"""A task: what a method is trained and tested on."""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.networks import Network


class Task(NamedTuple):
    """Training and test data.

    Attributes:
        inputs: (N, ...) as the network's views take them.
        labels: (N,) as given, or (N, C) shares of votes.
        truth: (N, C) true distributions.
        test_inputs: (M, ...).
        test_labels: (M,).
        num_classes: C.
        network: the layers that every method puts its head on.
        annotators: (N, A) labels of annotators, -1 for none, whose majority `labels` are.
        is_known: (N,) marks samples with a clear true class. None: all.
        test_votes: (M, C) shares of votes on the test set.
    """

    inputs: Tensor
    labels: Tensor
    truth: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    network: Network
    annotators: Tensor | None = None
    is_known: Tensor | None = None
    test_votes: Tensor | None = None

    def rows(self, rows: Tensor | slice) -> "Task":
        """Return the task with some of the training samples."""
        return self._replace(
            inputs=self.inputs[rows],
            labels=self.labels[rows],
            truth=self.truth[rows],
            annotators=None if self.annotators is None else self.annotators[rows],
            is_known=None if self.is_known is None else self.is_known[rows],
        )

    @property
    def wrong(self) -> Tensor:
        """Which labels (N,) are not the most probable class."""
        given = self.labels.argmax(1) if self.labels.ndim == 2 else self.labels
        return given != self.truth.argmax(1)


def shuffled(count: int, seed: int) -> Tensor:
    """Return a permutation that the seed determines."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
