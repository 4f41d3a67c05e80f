"""What the ranks of a distributed run tell each other, and samples that several of them name."""

import zlib
from typing import Any

import torch
from torch import Tensor, distributed, nn


class Ranks:
    """The processes that hold the same targets, and how often they have met.

    Each meeting begins by comparing notes: which call it is, whether the batch is good, whether the
    settings are alike. What one process refuses, all refuse, so that none waits for another and no
    call meets another one's next.

    Args:
        group: of processes; None for all.
    """

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self.group = group
        self.calls = 0
        self.samples = 0  # of all processes in the last call

    def meet(
        self,
        device: torch.device,
        alike: dict[str, object],
        *,
        count: int = 0,
        refusal: Exception | None = None,
        is_last: bool = False,
    ) -> list[int]:
        """Compare notes, and return how many samples each process has.

        Args:
            device: where the notes are compared.
            alike: what must be the same in all processes, by name.
            count: this process's samples.
            refusal: the error that this process's batch made.
            is_last: whether this is :meth:`RefurbishedTargets.check_ranks`, and not a batch.

        Raises:
            RuntimeError: in all processes, if they differ or one of them has failed.
        """
        rank = distributed.get_rank(self.group)
        if rank < 0:
            raise ValueError("`group` must hold this process; got a group of others")
        self.calls += 1
        fingerprint = zlib.crc32(repr(alike).encode())
        note = [int(is_last), self.calls, int(refusal is not None), fingerprint, count]
        mine = torch.tensor(note, device=device)
        notes = [torch.empty_like(mine) for _ in range(distributed.get_world_size(self.group))]
        try:
            distributed.all_gather(notes, mine, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                "`targets` must be called equally often in all processes; another one has ended "
                f"or failed before call {self.calls}: {error}"
            ) from error
        lasts, calls, refusals, fingerprints, counts = torch.stack(notes).T.tolist()
        if refusal is not None:
            raise refusal
        if len(set(lasts)) > 1 or len(set(calls)) > 1:
            raise RuntimeError(
                "`targets` must be called equally often in all processes; got calls "
                f"{calls}, of which {lasts.count(1)} end the training"
            )
        if any(refusals):
            refused = [place for place, each in enumerate(refusals) if each]
            raise RuntimeError(f"the batch of rank {refused} was refused; see the error there")
        if len(set(fingerprints)) > 1:
            raise RuntimeError(f"`targets` must be alike in all processes; {self._differ(alike)}")
        self.samples = sum(counts)
        return list(counts)

    def gather(self, counts: list[int], *rows: Tensor) -> tuple[list[Tensor], slice]:
        """Join the rows of all processes, and tell where this one's lie.

        Args:
            counts: how many rows each process has.
            *rows: tensors (B, ...) of this process.
        """
        rank = distributed.get_rank(self.group)
        start = sum(counts[:rank])
        joined = [_join(each, counts, self.group) for each in rows]
        return joined, slice(start, start + counts[rank])

    def _differ(self, alike: dict[str, object]) -> str:
        """Name what differs; all processes must call this."""
        gathered: list[Any] = [None] * distributed.get_world_size(self.group)
        distributed.all_gather_object(gathered, alike, group=self.group)
        names = [name for name in alike if len({repr(each.get(name)) for each in gathered}) > 1]
        return "; ".join(f"got {name} {[each.get(name) for each in gathered]}" for name in names)


def is_distributed() -> bool:
    """Whether this is one of several processes, or of a group of one."""
    return distributed.is_available() and distributed.is_initialized()


def world_size(group: "distributed.ProcessGroup | None" = None) -> int:
    """How many processes train together."""
    return distributed.get_world_size(group) if is_distributed() else 1


def mean_of_repeated(place: Tensor | None, rows: Tensor) -> Tensor:
    """Give rows of one place their mean, alike to the bit: it is left open which is stored.

    A place (B,) is where a sample comes first among the sorted ones; None where no sample repeats.
    """
    if place is None:
        return rows
    counted = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    sums = torch.zeros_like(counted).index_put_((place,), counted, accumulate=True)[place]
    return sums[:, :-1] / sums[:, -1:]


def _join(rows: Tensor, counts: list[int], group: "distributed.ProcessGroup | None") -> Tensor:
    """All ranks' rows, padded to one size on the way, since all_gather wants equal shapes."""
    padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
    padded = nn.functional.pad(rows, padding).contiguous()
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded, group=group)
    return torch.cat([each[:count] for each, count in zip(gathered, counts, strict=True)])
