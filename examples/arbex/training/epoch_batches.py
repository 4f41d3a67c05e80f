"""Training batches whose every random choice follows from seed, epoch and position.

Nothing random has to be stored to continue a run: an interrupted epoch is taken up at the batch
where it stopped, and goes on as it would have.
"""

from collections.abc import Callable, Iterator, Sized
from typing import NamedTuple, Protocol

import numpy as np
import torch
from faces.face_dataset import FaceSample
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class EpochSampler(Sized, Protocol):
    """A sampler that draws another order each epoch, the same for the same epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        ...

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank's samples."""
        ...


class FaceBatch(Protocol):
    """What the default collation makes of samples: their fields, as tensors of B rows."""

    image: Tensor
    label: Tensor
    index: Tensor
    distribution: Tensor


class Position(NamedTuple):
    """A place in the training."""

    epoch: int
    batch: int


class EpochBatches:
    """Batches of one rank, from the place where the training stands.

    Args:
        dataset: the training faces.
        sampler: their order in each epoch.
        batch_size: of this rank. A last short batch is left out, since batch norm may need two.
        seed: of the augmentation.
        position: tells where the training stands; asked when an epoch begins.
        workers: processes that load; the batches do not depend on it.

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
        """What must be the same when a run is continued; the position is in the progress."""
        return {"samples": len(self.sampler), "batch_size": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Check that the run goes on with the data it began with.

        Raises:
            ValueError: if it does not.
        """
        if state != self.state_dict():
            raise ValueError(
                f"the run must go on with the batches it began with, {state}; "
                f"got {self.state_dict()}"
            )


def derive_seed(*numbers: int) -> int:
    """Mix whole numbers >= 0 to one seed of 63 bits; neighbours give unlike seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Draw(NamedTuple):
    row: int
    seed: int


class _SeededDataset(Dataset[FaceSample]):
    """Each sample is augmented by its own random numbers, whoever loads it and when."""

    def __init__(self, dataset: Dataset[FaceSample]) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: _Draw) -> FaceSample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            return self.dataset[draw.row]
