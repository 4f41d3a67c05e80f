"""Data refinement: draw each epoch a sample that is balanced over groups and classes."""

from collections.abc import Iterator, Mapping
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed
from torch.utils.data import DistributedSampler

from reliability_balance import checks

ShortClasses = Literal["replace", "keep"]
Indices = npt.NDArray[np.int64]


def limit_per_key(
    keys: npt.NDArray[np.integer], limit: int, generator: "np.random.Generator"
) -> Indices:
    """Choose at most `limit` rows of each key, at random and without replacement.

    Args:
        keys: key of each row.
        limit: rows to keep of each key, >= 1.
        generator: random number generator.

    Shape:
        - keys: (N,) integers; returns (M,) int64 rows, sorted by key and in random order within.

    Example:
        >>> rows = limit_per_key(np.array([5, 5, 5, 8]), 2, np.random.default_rng(0))
        >>> sorted(np.array([5, 5, 5, 8])[rows].tolist())
        [5, 5, 8]
    """
    shuffled = generator.permutation(len(keys))
    # A stable sort by key keeps the shuffled order within each key.
    order = shuffled[np.argsort(keys[shuffled], kind="stable")]
    starts, lengths = _runs(keys[order])
    position = np.arange(len(keys)) - np.repeat(starts, lengths)
    return order[position < limit]


def refine(
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    per_group: int,
    per_class: int,
    short_classes: ShortClasses,
    generator: "np.random.Generator",
) -> Indices:
    """Choose one epoch's rows: a pool from all groups, then classes from the pool (4.2.2).

    Args:
        labels: class of each row.
        groups: the video, person or other source of each row.
        per_group: maximum of rows of each group in the pool.
        per_class: rows of each class to choose from the pool.
        short_classes: how to treat a class with fewer rows in the pool: "replace" repeats its rows
            as evenly as possible until it has `per_class`; "keep" leaves it short.
        generator: random number generator.

    Shape:
        - labels, groups: (N,) integers; returns (M,) int64 rows in random order. With "replace"
          M is `per_class` times the number of classes that occur.

    Example:
        >>> labels, groups = np.array([0, 0, 0, 0, 1]), np.array([7, 7, 7, 8, 8])
        >>> rows = refine(
        ...     labels, groups, per_group=2, per_class=3, short_classes="replace",
        ...     generator=np.random.default_rng(0),
        ... )
        >>> np.bincount(labels[rows]).tolist(), int((rows == 4).sum())
        ([3, 3], 3)
    """
    pool = limit_per_key(groups, per_group, generator)
    chosen = pool[limit_per_key(labels[pool], per_class, generator)]
    if short_classes == "replace":
        chosen = _repeat_to(per_class, labels[chosen], chosen)
    return generator.permutation(chosen)


class SamplerState(TypedDict):
    """State of a sampler in plain numbers, for a checkpoint."""

    seed: int
    epoch: int
    position: int


# The base class only serves as a type: Lightning would split the indices of any other sampler
# among the ranks once more. Its constructor is not called: it would store the length of the whole
# data set.
class DataRefinementSampler(DistributedSampler[int]):
    """Sampler that draws each epoch evenly from groups and classes (ARBEx section 4.2.2).

    It needs only labels and groups and draws indices, so it works with any data set. All ranks draw
    the same epoch from the seed, then each takes every `num_replicas`-th row. All ranks get equally
    many; up to `num_replicas` - 1 rows are dropped for that. A sample that is repeated to fill its
    class can go to several ranks.

    Iterating does not advance the epoch; call :meth:`set_epoch`. Lightning calls it and does not
    split this sampler again. Accelerate, and with it Hugging Face's Trainer, splits every sampler
    among the ranks: there, pass `num_replicas` = 1 and `rank` = 0.

    Args:
        labels: class of each sample.
        groups: its video, person or other source. None: each sample is its own group.
        per_group: maximum of samples of each group in an epoch's pool; 512 in the paper.
        per_class: samples of each class in an epoch; 500 in the paper.
        short_classes: for a class with fewer samples in the pool: "replace" repeats its samples as
            evenly as possible; "keep" leaves the class short, and the epoch's length varies.
        num_replicas: number of ranks. None: that of torch.distributed, or 1.
        rank: this rank. None: that of torch.distributed, or 0.
        seed: the same on all ranks.

    Shape:
        - labels: (N,) int64, >= 0; groups: (N,) int64.

    State:
        Seed, epoch and position within it, by :meth:`state_dict`. Resuming in the middle of an
        epoch yields exactly the rest of it. A loader's workers draw indices ahead of training, so a
        loop that stops midway must save the position from its own count of samples.

    Raises:
        TypeError: if labels or groups are not int64 tensors, or a count is not an int.
        ValueError: on wrong shapes or values.

    Example:
        >>> labels = torch.tensor([0] * 90 + [1] * 10)
        >>> sampler = DataRefinementSampler(labels, None, per_class=20)
        >>> labels[list(sampler)].bincount()
        tensor([20, 20])
    """

    def __init__(
        self,
        labels: Tensor,
        groups: Tensor | None,
        *,
        per_group: int = 512,
        per_class: int = 500,
        short_classes: ShortClasses = "replace",
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        groups = torch.arange(len(labels)) if groups is None else groups
        checks.indices("labels", labels)
        checks.indices("groups", groups)
        if len(labels) == 0 or len(groups) != len(labels):
            raise ValueError(
                "`labels` and `groups` must have the same length, at least 1; "
                f"got {len(labels)} and {len(groups)}"
            )
        if int(labels.min()) < 0:
            raise ValueError(f"`labels` must be at least 0; got {int(labels.min())}")
        checks.at_least("per_group", per_group, 1)
        checks.at_least("per_class", per_class, 1)
        checks.at_least("seed", seed, 0)
        checks.one_of("short_classes", short_classes, ("replace", "keep"))
        started = distributed.is_available() and distributed.is_initialized()
        if num_replicas is None:
            num_replicas = distributed.get_world_size() if started else 1
        if rank is None:
            rank = distributed.get_rank() if started else 0
        checks.at_least("num_replicas", num_replicas, 1)
        checks.at_least("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(f"`rank` must be less than {num_replicas}; got {rank}")
        # Narrow keys sort faster and take less memory.
        self._labels = _narrow(labels)
        self._groups = _narrow(groups)
        self.per_group = per_group
        self.per_class = per_class
        self.short_classes = short_classes
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self._start = 0
        self._position = 0
        self._drawn: tuple[int, Indices] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which must be the same on all ranks."""
        checks.at_least("epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch, self._start, self._position = epoch, 0, 0

    def __len__(self) -> int:
        """Return the number of samples of a whole epoch on this rank."""
        return len(self._indices(self.epoch))

    def __iter__(self) -> Iterator[int]:
        indices = self._indices(self.epoch)
        start, self._start = self._start, 0
        for self._position in range(start + 1, len(indices) + 1):
            yield int(indices[self._position - 1])
        self._position = 0

    def state_dict(self) -> SamplerState:
        """Return seed, epoch and position; equal on ranks that have drawn equally many samples."""
        return {"seed": self.seed, "epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: SamplerState) -> None:
        """Resume from `state`: the next iteration yields the rest of its epoch.

        Raises:
            TypeError: if a value is not an int.
            ValueError: if it has another seed, other keys than :meth:`state_dict`, or a position
                beyond its epoch. The sampler is then unchanged.
        """
        if not isinstance(state, Mapping) or set(state) != set(SamplerState.__annotations__):
            got = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"`state` must hold seed, epoch and position; got {got}")
        seed, epoch, position = state["seed"], state["epoch"], state["position"]
        checks.at_least("seed", seed, 0)
        if seed != self.seed:
            raise ValueError(f"`state` must have seed {self.seed}; got {seed}")
        checks.at_least("epoch", epoch, 0)
        checks.at_least("position", position, 0)
        length = len(self._indices(epoch))
        if position > length:
            raise ValueError(
                f"`position` must be at most {length}, the samples of epoch {epoch} on this rank; "
                f"got {position}"
            )
        self.epoch = epoch
        self._start = self._position = position

    def _indices(self, epoch: int) -> Indices:
        """Return this rank's indices of an epoch, drawn once."""
        if self._drawn is None or self._drawn[0] != epoch:
            chosen = refine(
                self._labels,
                self._groups,
                per_group=self.per_group,
                per_class=self.per_class,
                short_classes=self.short_classes,
                generator=np.random.default_rng([self.seed, epoch]),
            )
            whole = len(chosen) - len(chosen) % self.num_replicas
            self._drawn = (epoch, chosen[self.rank : whole : self.num_replicas])
        return self._drawn[1]


def _narrow(values: Tensor) -> npt.NDArray[np.integer]:
    """Number the distinct values from 0, in the narrowest dtype."""
    _, codes = np.unique(values.cpu().numpy(), return_inverse=True)
    return codes.astype(np.min_scalar_type(int(codes.max())))


def _runs(sorted_keys: npt.NDArray[np.integer]) -> tuple[Indices, Indices]:
    """Start and length of each run of equal keys."""
    is_start = np.ones(len(sorted_keys), dtype=bool)
    is_start[1:] = sorted_keys[1:] != sorted_keys[:-1]
    starts = np.flatnonzero(is_start)
    return starts, np.diff(starts, append=len(sorted_keys))


def _repeat_to(count: int, sorted_keys: npt.NDArray[np.integer], rows: Indices) -> Indices:
    """Repeat the rows of each key in turn until the key has `count`."""
    starts, lengths = _runs(sorted_keys)
    turn = np.arange(count)[None, :] % lengths[:, None]
    return rows[(starts[:, None] + turn).ravel()]
