"""Communication between the ranks of a distributed run, and samples that occur repeatedly."""

import zlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from reliability_balance import checks
from reliability_balance.labels.rows import Parts, sums_by_place


class Ranks:
    """Synchronized calls of the processes that hold the same targets.

    Each call first compares the call number, whether the batch is valid, and the settings. If one
    process fails, all raise an error, so that no process waits forever or pairs different calls.

    Args:
        group: process group; None: all processes.
    """

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self.group = group
        self.calls = 0
        self.samples = 0  # of all processes in the last call

    def synchronize(
        self,
        device: torch.device,
        settings: dict[str, object],
        *,
        count: int = 0,
        failure: Exception | None = None,
        is_last: bool = False,
    ) -> list[int]:
        """Compare the processes' calls and settings, and return how many samples each one has.

        Args:
            device: device of the communication.
            settings: values that must be equal in all processes, by name.
            count: number of samples of this process.
            failure: the error of this process's batch; None: it is valid.
            is_last: True for :meth:`RefurbishedTargets.check_ranks`, False for a batch.

        Raises:
            RuntimeError: in all processes, if they differ or one of them has failed.
        """
        rank = distributed.get_rank(self.group)
        if rank < 0:
            raise ValueError("`group` must hold this process; got a group of others")
        self.calls += 1
        fingerprint = zlib.crc32(repr(settings).encode())
        values = [int(is_last), self.calls, int(failure is not None), fingerprint, count]
        mine = torch.tensor(values, device=device)
        gathered = mine.new_empty(distributed.get_world_size(self.group), len(values))
        try:
            distributed.all_gather(list(gathered.unbind()), mine, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                "`targets` must be called equally often in all processes; another one has ended "
                f"or failed before call {self.calls}: {error}"
            ) from error
        lasts, calls, failures, fingerprints, counts = gathered.T.tolist()
        if failure is not None:
            raise failure
        if len(set(lasts)) > 1 or len(set(calls)) > 1:
            raise RuntimeError(
                "`targets` must be called equally often in all processes; got calls "
                f"{calls}, of which {lasts.count(1)} end the training"
            )
        if any(failures):
            failed = [rank for rank, each in enumerate(failures) if each]
            raise RuntimeError(f"the batch of rank {failed} was refused; see the error there")
        if len(set(fingerprints)) > 1:
            difference = self._difference(settings)
            raise RuntimeError(f"`targets` must be alike in all processes; {difference}")
        self.samples = sum(counts)
        return list(counts)

    def exchange(
        self, counts: list[int], rows: dict[str, Parts], sums: dict[str, Parts]
    ) -> tuple[dict[str, Parts], dict[str, Parts]]:
        """Concatenate the rows of all processes in their order, and add up their sums.

        The results are equal to the bit in all processes. All rows are sent together, as bytes, and
        so are all sums.

        Args:
            counts: number of samples of each process.
            rows: tensors (B, ...) of this process.
            sums: tensors of the same shape in all processes.
        """
        addends = [each for parts in sums.values() for each in parts]
        total = torch.cat([each.flatten() for each in addends])
        is_summed = distributed.all_reduce(total, group=self.group, async_op=True)
        mine = [each for parts in rows.values() for each in parts]
        packed = [_as_bytes(each) for each in mine]
        widths = [each.shape[1] for each in packed]
        gathered = _gather(torch.cat(packed, dim=1), counts, self.group)
        of_all = [
            _as_rows(column, each)
            for column, each in zip(gathered.split(widths, dim=1), mine, strict=True)
        ]
        is_summed.wait()
        parts_of_total = total.split([each.numel() for each in addends])
        totals = [part.view_as(each) for part, each in zip(parts_of_total, addends, strict=True)]
        return _grouped(rows, of_all), _grouped(sums, totals)

    def _difference(self, settings: dict[str, object]) -> str:
        """Name the settings that differ; all processes must call this."""
        gathered: list[Any] = [None] * distributed.get_world_size(self.group)
        distributed.all_gather_object(gathered, settings, group=self.group)
        names = [name for name in settings if len({repr(each.get(name)) for each in gathered}) > 1]
        return "; ".join(f"got {name} {[each.get(name) for each in gathered]}" for name in names)


def is_distributed() -> bool:
    """Return whether there is a process group, which may have one process only."""
    return distributed.is_available() and distributed.is_initialized()


def world_size(group: "distributed.ProcessGroup | None" = None) -> int:
    """Return how many processes train together."""
    return distributed.get_world_size(group) if is_distributed() else 1


class SampleOrder(NamedTuple):
    """The order of the samples of a batch, in which some may occur repeatedly."""

    samples: Tensor  # (B,) sorted index of the samples
    position: Tensor  # (B,) position of these in the batch
    place: Tensor | None  # (B,) first place of each sample in `samples`; None: none is repeated

    @property
    def first(self) -> Tensor | None:
        """Position (B,) in the batch of each sample's first occurrence; None: none is repeated."""
        return None if self.place is None else self.position[self.place]


def sort_samples(index: Tensor) -> SampleOrder:
    """Sort the samples of a batch, (B,)."""
    samples, position = index.sort(stable=True)
    # Cheap on a CPU; elsewhere it would synchronize with the device.
    is_cheap = index.is_cpu and checks.can_read_values()
    if is_cheap and not bool((samples[1:] == samples[:-1]).any()):
        return SampleOrder(samples, position, None)
    return SampleOrder(samples, position, torch.searchsorted(samples, index))


def mean_of_repeated(place: Tensor | None, rows: Tensor) -> Tensor:
    """Replace the rows of one sample by their mean, equal to the bit: any of them may be stored.

    Args:
        place: (B,) position of each sample's first occurrence in the sorted index; None: no sample
            is repeated.
        rows: (B, ...).
    """
    if place is None:
        return rows
    counted = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    sums = sums_by_place(place, counted)[place]
    return sums[:, :-1] / sums[:, -1:]


def _gather(rows: Tensor, counts: list[int], group: "distributed.ProcessGroup | None") -> Tensor:
    """Concatenate the rows of all ranks, padded in between: all_gather needs equal shapes."""
    if not max(counts):
        return rows
    padded = nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
    gathered = padded.new_empty(len(counts), *padded.shape)
    distributed.all_gather(list(gathered.unbind()), padded, group=group)
    return torch.cat([each[:count] for each, count in zip(gathered, counts, strict=True)])


def _as_bytes(rows: Tensor) -> Tensor:
    """View rows (B, ...) as bytes (B, n)."""
    return rows.unsqueeze(-1).flatten(1).contiguous().view(torch.uint8)


def _as_rows(data: Tensor, like: Tensor) -> Tensor:
    """Copy bytes (M, n) to rows of the dtype and shape of those of `like`."""
    copied = data.clone(memory_format=torch.contiguous_format)  # a view may not be aligned
    return copied.flatten().view(like.dtype).view(len(data), *like.shape[1:])


def _grouped(like: dict[str, Parts], tensors: list[Tensor]) -> dict[str, Parts]:
    """Group tensors as those of `like`."""
    rest = iter(tensors)
    return {name: tuple(next(rest) for _ in parts) for name, parts in like.items()}
