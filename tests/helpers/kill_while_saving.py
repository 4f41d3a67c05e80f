"""Kill a process that saves one file over and over, and look at the file after each kill.

python tests/helpers/kill_while_saving.py FOLDER KILLS SEED

Saves by turns two models, so that half of one and half of the other would be found out.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tiny_training import tiny_recipe

from examples.arbex.face_model import build_model  # isort: skip
from examples.arbex.model_bundle import load_bundle, save_bundle  # isort: skip
from examples.arbex.training.run_keeping import RESUME_KEYS, AtomicCheckpointIO  # isort: skip

from reliability_balance import ReliabilityBalancer
from reliability_balance.checkpoint import load, save

RECIPE = tiny_recipe()
POINT = dict.fromkeys(RESUME_KEYS, 0)


def constant(module: torch.nn.Module, value: float) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, value)
    return module


def write_resume_point(path: Path, value: float) -> None:
    weights = {"weight": torch.full((50_000,), value)}
    AtomicCheckpointIO().save_checkpoint({**POINT, "state_dict": weights}, path)


Writer = Callable[[Path, float], None]
Reader = Callable[[Path], list[torch.Tensor]]
KINDS: dict[str, tuple[Writer, Reader]] = {
    "checkpoint": (
        lambda path, value: save(path, constant(ReliabilityBalancer(512, 7), value)),
        lambda path: list(load(path).model.parameters()),
    ),
    "model": (
        lambda path, value: save_bundle(
            path, constant(build_model(RECIPE, 2), value), RECIPE, ("a", "b")
        ),
        lambda path: list(load_bundle(path).model.parameters()),
    ),
    "resume point": (
        write_resume_point,
        lambda path: list(AtomicCheckpointIO().load_checkpoint(path)["state_dict"].values()),
    ),
}


def save_forever(write: Writer, path: Path) -> None:
    while True:
        for value in (1.0, 2.0):
            write(path, value)


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    draw = random.Random(seed)
    for kind, (write, read) in KINDS.items():
        path = folder / f"{kind}.saved"
        write(path, 1.0)
        for _ in range(kills):
            child = os.fork()
            if child == 0:
                save_forever(write, path)
            time.sleep(draw.uniform(0.0, 0.1))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            values = torch.cat([tensor.detach().flatten() for tensor in read(path)]).unique()
            if values.tolist() not in ([1.0], [2.0]):
                sys.exit(f"{kind}: neither the one nor the other, but {values}")
        write(path, 1.0)
        if list(folder.iterdir()) != [path]:
            sys.exit(f"{kind}: {sorted(folder.iterdir())} stayed in the folder")
        path.unlink()
        print(f"{kind}: whole after {kills} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
