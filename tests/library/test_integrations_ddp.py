"""What torchrun and Ray Train start: examples, RobustTrainer, Lightning and Accelerate."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from idx_files import write_mnist

ROOT = Path(__file__).resolve().parents[2]
NO_RAY = "needs ray[train], which is in no extra"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")


def run(*arguments, fails=False):
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    own["RAY_worker_niceness"] = "0"  # 15 otherwise: workers that hardly run beside other tests
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *(str(each) for each in arguments)],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout


def load(path):
    return torch.load(path, weights_only=True)


def assert_equal_states(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, second[name], rtol=0, atol=tolerance, msg=name)
        elif isinstance(value, dict):
            assert_equal_states(value, second[name], tolerance)
        else:
            assert value == second[name], name


def test_the_example_trains_and_resumes_in_two_processes(tmp_path):
    folder, out = write_mnist(tmp_path / "data", count=64), tmp_path / "checkpoint.pt"
    options = ("--data", folder, "--batch-size", 16, "--out", out)
    output = run(*TORCHRUN, "-m", "examples.torchrun_ddp", *options, "--epochs", 3)
    assert output.count("test accuracy") == 1
    whole = load(out)
    # Rank 0 knows of all samples, half of which rank 1 trained on.
    learned = whole["criterion"]["_extra_state"]["targets"]
    assert torch.equal(learned["updates"], torch.full((64,), 3, dtype=torch.int32))
    run(*TORCHRUN, ROOT / "tests/helpers/torchrun_killed.py", *options, "--epochs", 3, fails=True)
    assert load(out)["epoch"] == 2
    run(*TORCHRUN, "-m", "examples.torchrun_ddp", *options, "--epochs", 3, "--resume")
    resumed = load(out)
    for part in ("model", "criterion"):
        assert_equal_states(whole[part], resumed[part])


@pytest.mark.parametrize("engine", ["lightning", "accelerate"])
def test_two_processes_follow_one(tmp_path, engine):
    script = ROOT / "tests/helpers" / f"{engine}_state.py"
    run(script, tmp_path / "one")
    run(*TORCHRUN, script, tmp_path / "two")
    (one,) = (tmp_path / "one").glob("rank*.pt")
    two = sorted((tmp_path / "two").glob("rank*.pt"))
    assert len(two) == 2
    alone = load(one)
    assert int(alone["targets"]["updates"].min()) == 3
    for path in two:
        assert_equal_states(load(path), alone, tolerance=1e-5)


def test_workers_of_ray_train_follow_one_process(tmp_path):
    pytest.importorskip("ray.train", reason=NO_RAY)
    script = ROOT / "tests/helpers/ray_state.py"
    run(script, tmp_path / "one", 0)
    run(script, tmp_path / "two", 2)
    alone, *two = (
        load(tmp_path / f"{name}.pt") for name in ("one/rank0", "two/rank0", "two/rank1")
    )
    assert int(alone["targets"]["updates"].min()) == 3
    assert_equal_states(*two)
    assert_equal_states(two[0], alone, tolerance=1e-5)


def test_the_example_of_ray_train_runs(tmp_path):
    pytest.importorskip("ray.train", reason=NO_RAY)
    folder, out = write_mnist(tmp_path / "data", count=64), tmp_path / "checkpoint.pt"
    options = ("--data", folder, "--batch-size", 16, "--epochs", 2, "--out", out)
    output = run("-m", "examples.ray_training", *options)
    assert "test accuracy" in output
    learned = load(out)["criterion"]["_extra_state"]["targets"]
    assert torch.equal(learned["updates"], torch.full((64,), 2, dtype=torch.int32))


def test_the_trainer_mixes_and_resumes_in_two_processes(tmp_path):
    def ranks():
        return [load(tmp_path / f"rank{rank}.pt") for rank in range(2)]

    run(*TORCHRUN, ROOT / "tests/helpers/trainer_state.py", tmp_path)
    whole = ranks()
    for part in whole[0]["weights"], whole[0]["targets"]:
        assert all(bool(torch.isfinite(value).all()) for value in part.values())
    assert_equal_states(*whole)
    seen = whole[0]["targets"]["updates"]
    assert torch.equal(seen, torch.full((48,), 3, dtype=torch.int32))
    shutil.rmtree(tmp_path / "trainer" / "checkpoint-18")
    run(*TORCHRUN, ROOT / "tests/helpers/trainer_state.py", tmp_path, "--resume")
    for before, after in zip(whole, ranks(), strict=True):
        assert_equal_states(before, after)
