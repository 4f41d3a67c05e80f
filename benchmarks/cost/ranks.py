"""A step of the targets on several ranks, which exchange what is stored."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from reliability_balance.labels import RefurbishedTargets

SAMPLES, BATCH, WARM_UP = 20_000, 128, 4


def steps_of_ranks(ranks: int, classes: int, steps: int) -> tuple[list[float], float]:
    """Run steps on ranks of the gloo backend, of 128 samples each.

    Returns:
        The processor time of each step of the first rank, in seconds, and the bytes of all tensors
        that it gives to others in a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, classes, steps, Path(folder))
        spawn(_run, arguments, nprocs=ranks)
        seconds, sent = torch.load(Path(folder, "found.pt"), weights_only=True)
    return seconds, sent


def _run(rank: int, ranks: int, classes: int, steps: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks
    )
    sent = _count_bytes()
    labels = torch.randint(classes, (SAMPLES,), generator=torch.Generator().manual_seed(0))
    targets = RefurbishedTargets(SAMPLES, classes, warmup=2)
    targets.expect(labels)
    generator = torch.Generator().manual_seed(rank)
    probs = torch.randn(BATCH, classes, generator=generator).mul_(2.0).softmax(-1)
    own = torch.arange(rank, SAMPLES, ranks)
    seconds = []
    for step in range(WARM_UP + steps):
        index = own[torch.randperm(len(own), generator=generator)[:BATCH]]
        if step == WARM_UP:
            sent.clear()
        start = time.process_time()
        targets(index, labels[index], probs)
        seconds.append(time.process_time() - start)
    if rank == 0:
        torch.save((seconds[WARM_UP:], sum(sent) / steps), folder / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def _count_bytes() -> list[float]:
    """Record the bytes of each tensor that is gathered or summed, in the list returned."""
    sent: list[float] = []
    for name, place in (("all_gather", 1), ("all_reduce", 0)):
        setattr(distributed, name, partial(_counted, getattr(distributed, name), place, sent))
    return sent


def _counted(
    plain: Callable[..., Any], place: int, sent: list[float], *tensors: Any, **options: Any
) -> Any:
    sent.append(float(tensors[place].nbytes))
    return plain(*tensors, **options)
