"""The example of torchrun, of which rank 0 dies once it has saved its second epoch.

torchrun --nproc_per_node 2 tests/helpers/torchrun_killed.py OPTIONS
"""

import os

import typer

from examples import torchrun_ddp

save_tensors = torchrun_ddp.save_tensors


def save_and_die(path, content):
    save_tensors(path, content)
    if content["epoch"] == 2:
        os._exit(1)


if __name__ == "__main__":
    torchrun_ddp.save_tensors = save_and_die
    typer.run(torchrun_ddp.main)
