"""Run a function in several real processes of one gloo group."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

# Processes are forked from one that has imported the library once.
multiprocessing.set_forkserver_preload(["reliability_balance"])


def run_ranks(function: Callable[..., Any], world_size: int, folder: Path, *args: Any) -> list[Any]:
    """Call ``function(rank, *args)`` in each process and return what each gave.

    The processes meet over a file, so no port can be taken; a rank that fails raises here.
    """
    multiprocessing.start_processes(
        _run, (function, world_size, folder, args), nprocs=world_size, start_method="forkserver"
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world_size)]


def _run(
    rank: int, function: Callable[..., Any], world_size: int, folder: Path, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world_size
    )
    try:
        torch.save(function(rank, *args), folder / f"rank{rank}.pt")
        # Who leaves while another still talks can bring that one's threads down.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
