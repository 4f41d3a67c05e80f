"""A step of the targets on several ranks, which exchange what is stored."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from reliability_balance.labels import RefurbishedTargets

SAMPLES, BATCH, WARM_UP = 20_000, 128, 4


class Steps(NamedTuple):
    """What a step costs a rank."""

    seconds: list[float]  # processor time of each step, communication threads included
    collectives: int  # calls of torch.distributed
    sent: int  # bytes of the tensors that it gives to the others


def steps_of_ranks(sizes: tuple[int, ...], classes: int, steps: int) -> dict[int, Steps]:
    """Measure steps of several numbers of ranks, of 128 samples on each, with the gloo backend.

    The same processes form groups of each size, in turn: more processes would also share the
    cores and caches among more, which slows down all that they do.

    Args:
        sizes: numbers of ranks, ascending; each must divide the last one.
        classes: C.
        steps: number of steps of each size.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_run, (sizes, classes, steps, Path(folder)), nprocs=sizes[-1])
        found = torch.load(Path(folder, "found.pt"), weights_only=True)
    return {size: Steps(*each) for size, each in found.items()}


def _run(rank: int, sizes: tuple[int, ...], classes: int, steps: int, folder: Path) -> None:
    torch.set_num_threads(1)
    world = sizes[-1]
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world
    )
    labels = torch.randint(classes, (SAMPLES,), generator=torch.Generator().manual_seed(0))
    targets = {}
    for size in sizes:
        members = torch.arange(world).split(size)
        groups = [distributed.new_group(each.tolist()) for each in members]
        own_group = groups[rank // size]
        assert isinstance(own_group, distributed.ProcessGroup)
        targets[size] = RefurbishedTargets(SAMPLES, classes, warmup=2, group=own_group)
        targets[size].expect(labels)
    sent = _count_bytes()
    generator = torch.Generator().manual_seed(rank)
    probs = torch.randn(BATCH, classes, generator=generator).mul_(2.0).softmax(-1)
    own = torch.arange(rank, SAMPLES, world)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    collectives = {}
    for step in range(WARM_UP + steps):
        for size in sizes[:: 1 if step % 2 else -1]:
            index = own[torch.randperm(len(own), generator=generator)[:BATCH]]
            sent.clear()
            start = time.process_time()
            targets[size](index, labels[index], probs)
            seconds[size].append(time.process_time() - start)
            collectives[size] = len(sent), sum(sent)
    if rank == 0:
        found = {size: (seconds[size][WARM_UP:], *collectives[size]) for size in sizes}
        torch.save(found, folder / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _count_bytes() -> list[int]:
    """Record the bytes of each tensor that is gathered or summed, in the list returned."""
    sent: list[int] = []
    for name, place in (("all_gather", 1), ("all_reduce", 0)):
        setattr(distributed, name, partial(_counted, getattr(distributed, name), place, sent))
    return sent


def _counted(
    plain: Callable[..., Any], place: int, sent: list[int], *tensors: Any, **options: Any
) -> Any:
    sent.append(tensors[place].nbytes)
    return plain(*tensors, **options)
