"""What torchrun starts: the plain example, and the Lightning callback beside one process."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from idx_files import write_mnist

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


def run(*arguments):
    path = os.pathsep.join(str(ROOT / each) for each in ("", "examples"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *(str(each) for each in arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_trains_in_two_processes(tmp_path):
    folder, out = write_mnist(tmp_path / "data", count=64), tmp_path / "model.pt"
    options = ("--data", folder, "--epochs", 2, "--batch-size", 16, "--out", out)
    output = run(*TORCHRUN, ROOT / "examples/torchrun_ddp.py", *options)
    assert output.count("test accuracy") == 1
    saved = torch.load(out, weights_only=True)
    # Rank 0 knows of all samples, half of which rank 1 trained on.
    assert torch.equal(saved["targets"]["updates"], torch.full((64,), 2, dtype=torch.int32))


def test_the_lightning_callback_in_two_processes_follows_one(tmp_path):
    script = ROOT / "tests/lightning_state.py"
    run(script, tmp_path / "one")
    run(*TORCHRUN, script, tmp_path / "two")
    (one,) = (tmp_path / "one").iterdir()
    two = sorted((tmp_path / "two").iterdir())
    assert len(two) == 2
    alone = torch.load(one, weights_only=True)
    assert int(alone["updates"].min()) == 3
    for path in two:
        for name, value in torch.load(path, weights_only=True).items():
            torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5)


def test_the_trainer_mixes_in_two_processes(tmp_path):
    run(*TORCHRUN, ROOT / "tests/trainer_state.py", tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for part in ("weights", "targets"):
        for name, value in ranks[0][part].items():
            assert bool(torch.isfinite(value).all()), name
            assert torch.equal(value, ranks[1][part][name]), name
    assert torch.equal(ranks[0]["targets"]["updates"], torch.full((24,), 3, dtype=torch.int32))
