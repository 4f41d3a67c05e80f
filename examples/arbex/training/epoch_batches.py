"""Training batches whose random choices depend only on seed, epoch and position.

So no generator state has to be stored: an interrupted epoch resumes at the batch where it stopped,
with identical results.
"""

from collections.abc import Callable, Iterator, Sized
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from examples.arbex.faces.face_dataset import FaceSample


class EpochSampler(Sized, Protocol):
    """Interface of a sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        ...

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this rank's samples."""
        ...


class FaceBatch(Protocol):
    """Interface of a collated batch: the samples' fields as tensors of B rows."""

    image: Tensor
    label: Tensor
    index: Tensor
    distribution: Tensor


class Position(NamedTuple):
    """A position in training."""

    epoch: int
    batch: int


class EpochBatches:
    """Batches of one rank, from the current position of training.

    Args:
        dataset: the training faces.
        sampler: their order in each epoch.
        batch_size: of this rank. An incomplete last batch is dropped, since batch norm needs two
            samples.
        seed: of the augmentation.
        position: returns the position of training; called at the start of an epoch.
        workers: loader processes; the batches do not depend on them.

    Raises:
        ValueError: if the sampler does not fill one batch.
    """

    def __init__(
        self,
        dataset: Dataset[FaceSample],
        sampler: EpochSampler,
        batch_size: int,
        *,
        seed: int,
        position: Callable[[], Position],
        workers: int = 0,
    ) -> None:
        if len(sampler) < batch_size:
            raise ValueError(
                f"`batch_size` must be at most the {len(sampler)} samples of an epoch; "
                f"got {batch_size}"
            )
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.position = position
        self.workers = workers

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[FaceBatch]:
        epoch, first = self.position()
        self.sampler.set_epoch(epoch)
        order = list(self.sampler)
        draws = [
            _Draw(row, derive_seed(self.seed, epoch, place)) for place, row in enumerate(order)
        ]
        batches = [
            draws[batch * self.batch_size : (batch + 1) * self.batch_size]
            for batch in range(first, len(self))
        ]
        yield from DataLoader(
            _SeededDataset(self.dataset),
            batch_sampler=batches,
            num_workers=self.workers,
            # The loader's own seed, which is not used, must not move the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def state_dict(self) -> dict[str, int]:
        """Return what must be equal when a run resumes; the position is in Lightning's progress."""
        return {"samples": len(self.sampler), "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Check that the run resumes with the same data.

        Raises:
            ValueError: if it does not.
        """
        if state != self.state_dict():
            raise ValueError(
                f"the run must resume with the batches that it started with, {state}; "
                f"got {self.state_dict()}"
            )


def derive_seed(*numbers: int) -> int:
    """Hash non-negative integers to a 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Draw(NamedTuple):
    row: int
    seed: int


class _SeededDataset(Dataset[FaceSample]):
    """Data set that augments each sample with its own seed, in any loader process."""

    def __init__(self, dataset: Dataset[FaceSample]) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: _Draw) -> FaceSample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            return self.dataset[draw.row]
