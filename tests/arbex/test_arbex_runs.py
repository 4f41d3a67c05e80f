"""Training as a process: killed, interrupted, and divided among two."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import face_trees
import pytest
import torch

TESTS = Path(__file__).resolve().parent.parent
# Ten kills are what `ARBEX_KILLS=10 pytest tests/arbex/test_arbex_runs.py` does.
KILLS = os.environ.get("ARBEX_KILLS", "3")
COMMAND = (sys.executable, "-W", "ignore", str(TESTS.parent / "examples/arbex"))
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
    output = run(str(TESTS / "helpers" / "kill_and_resume.py"), str(tmp_path), KILLS, "0")
    assert f"bit-equal after {KILLS} kills" in output


def test_two_processes_follow_one(tmp_path):
    script = str(TESTS / "helpers" / "loss_of_each_step.py")
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
    run(*torchrun, str(TESTS / "helpers" / "buffers_of_each_rank.py"), str(tmp_path))
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert any(name.endswith("running_mean") for name in one)
    assert any(name.startswith("targets.") for name in one)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def start_training(folder, *command, **options):
    """The command itself, on faces that nothing can be learned from, for ever."""
    face_trees.class_folders(folder / "faces")
    settings = ["data.dataset=folders", f"data.root={folder / 'faces'}", "data.image_size=16"]
    settings += ["data.per_class=8", "recipe.logit_adjustment=false", "recipe.num_anchors=2"]
    settings += ["encoder.name=small_cnn", "encoder.options={width: 4}"]
    settings += ["optimization.epochs=100000", "optimization.batch_size=8"]
    sets = [part for each in settings for part in ("--set", each)]
    process = subprocess.Popen(
        [*command, "train", *sets, "--out", str(folder / "run"), "--accelerator", "cpu"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    checkpoint = folder / "run" / "checkpoint.ckpt"
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.05)
    return process, checkpoint


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_holds_its_folder_and_stops_when_it_is_asked_to(number, status, tmp_path):
    process, checkpoint = start_training(tmp_path, *COMMAND)
    try:
        for options in (["--resume"], ["--set", "data.root=/nowhere"]):
            second = subprocess.run(
                [*COMMAND, "train", "--out", str(tmp_path / "run"), *options],
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert second.returncode == 2
            assert "error: `out` must be a folder where no training runs" in second.stderr
            assert f'"pid": {process.pid}' in second.stderr
        before = torch.load(checkpoint, weights_only=True)["global_step"]
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert "stopped, and a resume point was written; resume with: " in output
    assert "Traceback" not in errors
    assert torch.load(checkpoint, weights_only=True)["global_step"] >= before
    assert not list((tmp_path / "run").glob(".*checkpoint*"))
    assert not (tmp_path / "run" / "run.lock").exists()


def test_ctrl_c_stops_all_processes_at_one_batch(tmp_path):
    """Each has it twice: from the terminal, and from torchrun."""
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    command = (sys.executable, "-W", "ignore", *torchrun, f"{COMMAND[-1]}/__main__.py")
    process, checkpoint = start_training(tmp_path, *command, start_new_session=True)
    try:
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert output.count("stopped, and a resume point was written") == 1, errors
    assert not (tmp_path / "run" / "run.lock").exists()
    torch.load(checkpoint, weights_only=True)
