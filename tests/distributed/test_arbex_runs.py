"""Training as a process: killed, interrupted, and divided among two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent.parent
# Ten kills are what `ARBEX_KILLS=10 pytest tests/distributed/test_arbex_runs.py` does.
KILLS = os.environ.get("ARBEX_KILLS", "3")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_that_is_killed_resumes_to_the_same_bits(tmp_path):
    output = run(str(TESTS / "kill_and_resume.py"), str(tmp_path), KILLS, "0")
    assert f"bit-equal after {KILLS} kills" in output


def test_two_processes_follow_one(tmp_path):
    script = str(TESTS / "loss_of_each_step.py")
    run(script, str(tmp_path / "one"))
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    run(*torchrun, script, str(tmp_path / "two"))
    one, two = (
        json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "two")
    )
    assert len(one) >= 20
    assert one[0] != pytest.approx(one[-1], abs=1e-2)  # it learned something in between
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), atol=1e-5, rtol=0)


def test_two_processes_end_with_one_state(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    run(*torchrun, str(TESTS / "buffers_of_each_rank.py"), str(tmp_path))
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert any(name.endswith("running_mean") for name in one)
    assert any(name.startswith("targets.") for name in one)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tiny_training import tiny_recipe, train_tiny;"
        "print('ready', flush=True); train_tiny(Path(sys.argv[1]), tiny_recipe(epochs=10000))"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        env={**ENVIRONMENT, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = tmp_path / "checkpoint.ckpt"
    try:
        deadline = time.monotonic() + 300
        while not checkpoint.exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = torch.load(checkpoint, weights_only=True)["global_step"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "TrainingInterrupted" in errors
    assert torch.load(checkpoint, weights_only=True)["global_step"] >= before
    assert not list(tmp_path.glob(".*checkpoint*"))
