"""A run is held by one process, stops when it is asked to, and goes on with what it began with."""

import json
import multiprocessing
import os
import platform
import signal
import time
from dataclasses import replace
from pathlib import Path

import face_trees
import pytest
import torch
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe, train_tiny

from examples.arbex.configuration import dump_config, override_config
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.faces.identity import changed_columns, table_digests
from examples.arbex.run_data import load_faces
from examples.arbex.training.balanced_training import BalancedTraining
from examples.arbex.training.fitting import fit
from examples.arbex.training.run_folder import RunFolder
from examples.arbex.training.run_identity import run_identity
from examples.arbex.training.run_keeping import TrainingInterrupted
from examples.arbex.training.run_lock import LOCK_NAME, only_run_in
from reliability_balance.core.recipes import RENAMED

# One run at a time


def hold(root: Path, sender, with_child: bool = False) -> None:
    with only_run_in(root):
        child = 0
        if with_child and (child := os.fork()) == 0:
            time.sleep(600)
        sender.send((os.getpid(), child))
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a folder; all are ended afterwards."""
    started = []

    def start(root, with_child=False):
        fork = multiprocessing.get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=hold, args=(root, sender, with_child))
        process.start()
        pids = receiver.recv()
        started.extend(pid for pid in pids if pid)
        return process, pids

    yield start
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_second_run_is_refused_and_told_who_holds_the_folder(holder, tmp_path):
    root = tmp_path / "run"
    _, (pid, _) = holder(root)
    with (
        pytest.raises(FileExistsError, match=r"`out` must be .* no training runs") as no,
        only_run_in(root),
    ):
        pytest.fail("two held one folder")
    owner = json.loads((root / LOCK_NAME).read_text())
    assert (owner["pid"], owner["host"]) == (pid, platform.node())
    for value in (str(root), str(pid), platform.node(), owner["start"], "--out"):
        assert value in str(no.value)


def test_the_lock_of_a_killed_run_is_none(holder, tmp_path):
    """Also while processes that it started are still there."""
    root = tmp_path / "run"
    process, (pid, child) = holder(root, with_child=True)
    os.kill(pid, signal.SIGKILL)
    process.join()
    os.kill(child, 0)  # lives
    assert (root / LOCK_NAME).exists()
    with only_run_in(root):
        assert json.loads((root / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (root / LOCK_NAME).exists()


def test_a_folder_in_which_nothing_was_written_is_gone_again(tmp_path):
    with only_run_in(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    with only_run_in(tmp_path / "used"):
        (tmp_path / "used/recipe.yaml").touch()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["recipe.yaml"]
    with only_run_in(tmp_path):
        pass
    assert tmp_path.exists()


def race(root: Path, count: int, sender) -> None:
    overlaps = 0
    for _ in range(count):
        try:
            with only_run_in(root):
                mark = root / "mark"
                try:
                    mark.touch(exist_ok=False)
                except FileExistsError:
                    overlaps += 1
                mark.unlink(missing_ok=True)
        except FileExistsError:
            continue
    sender.send(overlaps)


def test_of_many_that_come_and_go_no_two_hold_it(tmp_path):
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    root = tmp_path / "run"  # comes and goes, too
    processes = [fork.Process(target=race, args=(root, 300, sender)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [receiver.recv() for _ in processes] == [0, 0, 0, 0]


# Stopping


def signals_in_step(monkeypatch, step, *numbers):
    """Send signals to this process in the middle of a step, counted from 0."""
    real = BalancedTraining.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step and batch_idx % 2 == 1:
            for number in numbers:
                signal.raise_signal(number)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(BalancedTraining, "training_step", training_step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_batch_and_leaves_a_resume_point(number, tmp_path, monkeypatch, capfd):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    signals_in_step(monkeypatch, 2, number)
    with pytest.raises(TrainingInterrupted, match="a resume point was written") as stop:
        train_tiny(tmp_path, tiny_recipe(epochs=2, optimization=patient()))
    assert stop.value.number == number
    assert torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)["global_step"] == 3
    assert "once more stops at once" in capfd.readouterr().err
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once_and_tells_what_is_lost(second, tmp_path, monkeypatch):
    signals_in_step(monkeypatch, 2, signal.SIGINT, second)
    with pytest.raises(TrainingInterrupted, match="which are lost: 2") as stop:
        train_tiny(tmp_path, tiny_recipe(epochs=2, optimization=patient()))
    assert stop.value.number == signal.SIGINT
    assert not (tmp_path / "checkpoint.ckpt").exists()


def patient():
    """Steps of two batches, and no resume point but at the end of an epoch."""
    return {"batch_size": 8, "accumulate": 2, "checkpoint_steps": 1000, "epochs": 2}


# Going on


def csv_run(tmp_path, **optimization):
    """A recipe and a table of 40 pictures, and the folder of a run of one epoch on them."""
    lines = ["image,label,split"]
    for number in range(40):
        face_trees.write_image(tmp_path / f"faces/{number}.bmp", 5 * number, size=16)
        split = ("train", "train", "validation", "test")[number // 2 % 4]
        lines.append(f"{number}.bmp,{('calm', 'cross')[number % 2]},{split}")
    path = face_trees.write_text(tmp_path / "faces/faces.csv", "\n".join(lines))
    recipe = tiny_recipe(
        data={"dataset": "csv", "root": str(path), "image_size": 16, "per_class": 8},
        optimization={"batch_size": 8, "epochs": 1, **optimization},
    )
    return recipe, path, RunFolder(tmp_path / "run")


def swap_rows(text):
    lines = text.split("\n")
    return "\n".join([lines[0], lines[2], lines[1], *lines[3:]])


CHANGES = {
    "labels": (lambda text: text.replace("0.bmp,calm", "0.bmp,cross", 1), "other labels"),
    "classes": (lambda text: text.replace("calm", "quiet"), "other classes"),
    "splits": (
        lambda text: text.replace("5.bmp,cross,validation", "5.bmp,cross,train", 1),
        "other splits",
    ),
    "order": (swap_rows, "other names"),
    "faces": (lambda text: text.rpartition("\n")[0], "other names"),
}


@pytest.fixture
def trained(tmp_path):
    recipe, path, folder = csv_run(tmp_path)
    fit(recipe, load_faces(recipe.data), folder, accelerator="cpu", show_progress=False)
    return recipe, path, folder


def go_on(recipe, folder):
    recipe = override_config(recipe, ["optimization.epochs=2", "data.max_missing=1"])
    fit(recipe, load_faces(recipe.data), folder, accelerator="cpu", show_progress=False)


def test_a_run_goes_on_only_with_what_it_began_with(trained):
    recipe, path, folder = trained
    before = {file: file.read_bytes() for file in folder.root.iterdir() if file.is_file()}
    text = path.read_text()
    for change, expected in CHANGES.values():
        path.write_text(change(text))
        with pytest.raises(ValueError, match=rf"`--resume` needs the .* got .*{expected}"):
            go_on(recipe, folder)
    path.write_text(text)
    image = path.parent / "3.bmp"
    content = image.read_bytes()
    image.write_bytes(content[:-3] + bytes(3))
    with pytest.raises(ValueError, match=r"got other images\. Put that right"):
        go_on(recipe, folder)
    image.write_bytes(content)
    for override, expected in {
        "optimization.learning_rate=0.1": r"optimization\.learning_rate = 0\.1, which was 0\.0003",
        "optimization.patience=3": r"optimization\.patience = 3, which was None",
        "seed=4": r"seed = 4, which was 0",
        "encoder.options.width=8": r"encoder\.options\.width = 8, which was 4",
    }.items():
        with pytest.raises(ValueError, match=rf"got {expected}\. Put"):
            go_on(override_config(recipe, [override]), folder)
    assert {file: file.read_bytes() for file in before} == before
    go_on(recipe, folder)  # for longer, as nothing else has changed
    assert len(folder.history.read_text().splitlines()) == 3


def with_former_names(content):
    """Rename the recipe's fields in all mappings as before."""
    former = {new: old for old, new in RENAMED.items()}
    if isinstance(content, dict):
        return {former.get(key, key): with_former_names(each) for key, each in content.items()}
    return content


def test_a_run_from_before_the_recipes_fields_were_renamed_goes_on(trained):
    recipe, _, folder = trained
    content = torch.load(folder.checkpoint, weights_only=True)
    old = with_former_names(content)
    assert RENAMED.keys() <= old["identity"]["recipe"]["recipe"].keys()
    torch.save(old, folder.checkpoint)
    with pytest.raises(ValueError, match=r"recipe\.refurbishes_labels = False, which was True"):
        go_on(override_config(recipe, ["recipe.refurbishes_labels=false"]), folder)
    go_on(recipe, folder)
    assert len(folder.history.read_text().splitlines()) == 3


def test_data_may_move(trained, tmp_path):
    recipe, path, folder = trained
    path.parent.rename(tmp_path / "elsewhere")
    moved = override_config(recipe, [f"data.root={tmp_path}/elsewhere/faces.csv"])
    go_on(moved, folder)
    assert len(folder.history.read_text().splitlines()) == 3
    assert "elsewhere" not in dump_config(recipe)


def test_a_resume_point_that_tells_nothing_of_its_data_is_refused(trained):
    recipe, _, folder = trained
    content = torch.load(folder.checkpoint, weights_only=True)
    del content["identity"]
    torch.save(content, folder.checkpoint)
    with pytest.raises(ValueError, match=r"must be a resume point .* got: nothing at identity"):
        go_on(recipe, folder)


def test_each_column_has_its_digest():
    table = synthetic_table(24)
    first = table_digests(table, contents=True)
    changes: dict[str, FaceTable] = {
        "classes": replace(table, class_names=("a", "b", "c")),
        "names": replace(table, names=[*table.names[1:], table.names[0]]),
        "labels": replace(table, labels=table.labels.roll(1)),
        "splits": replace(table, splits=table.splits.roll(1)),
        "groups": replace(table, groups=table.groups.roll(1)),
        "votes": replace(table, distributions=table.distributions.roll(1, 0)),
    }
    for name, changed in changes.items():
        assert changed_columns(first, table_digests(changed, contents=True)) == [name]
    assert changed_columns(first, table_digests(replace(table), contents=True)) == []
    fewer = table_digests(table.select(torch.arange(20)), contents=True)
    assert changed_columns(first, fewer) == ["names"]


def test_unchecked_images_are_known_by_their_size(tmp_path):
    recipe, path, _ = csv_run(tmp_path)
    unchecked = override_config(recipe, ["data.corrupt=unchecked"])
    first, quick = (
        run_identity(each, load_faces(each.data))["data"]["images"] for each in (recipe, unchecked)
    )
    image = path.parent / "3.bmp"
    image.write_bytes(image.read_bytes()[:-3] + bytes(3))
    again, quick_again = (
        run_identity(each, load_faces(each.data))["data"]["images"] for each in (recipe, unchecked)
    )
    assert (first != again, quick != quick_again) == (True, False)
    image.write_bytes(image.read_bytes()[:-1])
    assert run_identity(unchecked, load_faces(unchecked.data))["data"]["images"] != quick
