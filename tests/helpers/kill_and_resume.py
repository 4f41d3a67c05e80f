"""Kill a training at random moments, resume it each time, and compare with one left in peace.

python tests/helpers/kill_and_resume.py FOLDER KILLS SEED

Prints what each kill left behind; ends with an error if a single bit differs.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from tiny_training import train_tiny


def start(folder: Path) -> int:
    """Train in a child, which shares the imports but nothing else."""
    child = os.fork()
    if child:
        return child
    try:
        train_tiny(folder)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the training ended with status {status}")


def differing(first: object, second: object, path: str = "") -> list[str]:
    """Paths at which two checkpoints differ in any bit."""
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and torch.equal(first, second)
        return [] if same else [path]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [d for key in first for d in differing(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for place, (a, b) in pairs for d in differing(a, b, f"{path}/{place}")]
    return [] if first == second else [path]


def parts_of(path: Path) -> tuple[object, bytes]:
    """Header and tensors of a safetensors file, which writes its metadata in any order."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def compare(peaceful: Path, killed: Path) -> None:
    one, other = (
        torch.load(run / "checkpoint.ckpt", weights_only=True) for run in (peaceful, killed)
    )
    different = [
        path
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step")
        for path in differing(one[key], other[key], key)
    ]
    if (peaceful / "history.csv").read_bytes() != (killed / "history.csv").read_bytes():
        different.append("history.csv")
    if parts_of(peaceful / "model.safetensors") != parts_of(killed / "model.safetensors"):
        different.append("model.safetensors")
    if different:
        sys.exit(f"not bit-equal: {', '.join(different)}")


def main(folder: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    peaceful, killed = folder / "peaceful", folder / "killed"
    begin = time.monotonic()
    finish(start(peaceful))
    duration = time.monotonic() - begin

    done = 0
    while done < kills:
        child = start(killed)
        time.sleep(draw.uniform(0, duration))
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:  # it was through before its time: judge it, and begin anew
            if status:
                sys.exit(f"the training ended with status {status}")
            compare(peaceful, killed)
            shutil.rmtree(killed)
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
        reached = "no checkpoint yet"
        if (killed / "checkpoint.ckpt").exists():
            checkpoint = torch.load(killed / "checkpoint.ckpt", weights_only=True)
            reached = f"step {checkpoint['global_step']}, epoch {checkpoint['epoch']}"
        print(f"kill {done}: {reached}", flush=True)
    finish(start(killed))
    compare(peaceful, killed)
    print(f"bit-equal after {done} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
