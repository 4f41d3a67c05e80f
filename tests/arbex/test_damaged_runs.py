"""A run folder of which one file is damaged: each command says which, and touches nothing."""

import copy
import pickle
import resource
import runpy
import shutil
import sys
import time
import zipfile
from pathlib import Path

import face_trees
import pytest
import torch
from tiny_training import tiny_recipe

from examples.arbex.model_bundle import load_bundle, save_bundle
from examples.arbex.run_data import load_faces
from examples.arbex.training.fitting import fit
from examples.arbex.training.run_folder import RunFolder, begin_run
from examples.arbex.training.run_keeping import AtomicCheckpointIO

MAIN = Path(__file__).resolve().parents[2] / "examples" / "arbex" / "__main__.py"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run on a small data set in files, named by spaces and letters that are not ASCII."""
    base = tmp_path_factory.mktemp("runs")
    faces = face_trees.class_folders(base / "Gesichter von Zoë (日本)")
    recipe = tiny_recipe(
        epochs=1,
        data={"dataset": "folders", "root": str(faces), "image_size": 16, "per_class": 8},
    )
    folder = RunFolder(base / "erster Lauf, «größer»")
    begin_run(recipe, (), folder)
    fit(recipe, load_faces(recipe.data), folder, accelerator="cpu", show_progress=False)
    return folder.root


@pytest.fixture
def run_folder(whole_run, tmp_path):
    return Path(shutil.copytree(whole_run, tmp_path / whole_run.name))


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["arbex", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(MAIN), run_name="__main__")
        return exit_.value.code, capsys.readouterr().err

    return call


class Attack:
    """A pickle of it creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def compress(path):
    """The parts of the archive, compressed; of no archive the whole."""
    source = {"data": path.read_bytes()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            source = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in source.items():
            archive.writestr(name, content)


DAMAGE = {
    "compressed": compress,
    "cut short": truncate,
    "a flipped bit": flip_bit,
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_bytes(b"<html>not found</html>"),
    "foreign": lambda path: torch.save({"weight": torch.ones(3)}, path.open("wb")),
    "malicious": lambda path: torch.save({"state_dict": Attack(path.parent / "ran")}, path),
    "malicious pickle": lambda path: path.write_bytes(pickle.dumps(Attack(path.parent / "ran"))),
}


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model(kind, run_folder, command, tmp_path):
    path = run_folder / "model.safetensors"
    DAMAGE[kind](path)
    before = contents(run_folder)
    face = face_trees.write_image(tmp_path / "face.png")
    for name in (("evaluate",), ("predict", face)):
        status, error = command(*name, "--model", run_folder, "--out", tmp_path / "out")
        assert status == 2
        assert f"error: {path} must be a model that `train` wrote; got: " in error
    assert contents(run_folder) == before


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_resume_point(kind, run_folder, command):
    path = run_folder / "checkpoint.ckpt"
    DAMAGE[kind](path)
    before = contents(run_folder)
    status, error = command("train", "--resume", "--out", run_folder, "--accelerator", "cpu")
    assert status == 2
    assert f"error: {path} must be a resume point that `train` wrote; got: " in error
    after = contents(run_folder)
    assert {path: after[path] for path in before} == before
    assert not (run_folder / "ran").exists()


@pytest.mark.parametrize("kind", ["cut short", "a web page", "malicious pickle"])
def test_a_damaged_recipe(kind, run_folder, command):
    path = run_folder / "recipe.yaml"
    if kind == "cut short":
        path.write_text(path.read_text(encoding="utf-8") + "optimization: {epochs: [", "utf-8")
    else:
        DAMAGE[kind](path)
    status, error = command("train", "--resume", "--out", run_folder, "--accelerator", "cpu")
    assert status == 2
    assert f"error: {path}: must " in error


def test_a_model_with_weights_that_are_not_numbers(run_folder):
    path = run_folder / "model.safetensors"
    bundle, before = load_bundle(run_folder), path.read_bytes()
    torch.nn.init.constant_(bundle.model.balancer.anchors, torch.nan)
    with pytest.raises(ValueError, match=r"finite weights; got NaN .* of balancer\.anchors"):
        save_bundle(path, bundle.model, bundle.config, bundle.class_names)
    assert path.read_bytes() == before


@pytest.mark.parametrize("way", ["compressed", "shared"])
def test_a_resume_point_that_would_unpack_to_gigabytes(way, run_folder, command):
    path = run_folder / "checkpoint.ckpt"
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        start = archive.read(pickled)
    size = 2**31
    zeros = start + bytes(2**20)
    if way == "compressed":
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(pickled, "w", force_zip64=True) as part,
        ):
            part.write(start)
            for _ in range(size // 2**20):
                part.write(bytes(2**20))
    else:  # many names for the same bytes
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(pickled, zeros)
            for number in range(size // len(zeros)):
                again = copy.copy(archive.infolist()[0])
                again.filename = f"{pickled}{number}"
                archive.filelist.append(again)
                archive.NameToInfo[again.filename] = again
    assert path.stat().st_size < 2**24
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"must be a resume point .*; got: a compressed archive"):
        AtomicCheckpointIO().load_checkpoint(path)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def named(bundle, names):
    """As many names as there are classes, which begin with these."""
    return names + tuple(f"class {place}" for place in range(len(bundle.class_names)))[len(names) :]


@pytest.mark.parametrize("names", [("a", " a"), ("a", "")])
def test_a_model_whose_class_names_tell_no_classes(names, run_folder):
    bundle, path = load_bundle(run_folder), run_folder / "model.safetensors"
    save_bundle(path, bundle.model, bundle.config, named(bundle, names))
    with pytest.raises(ValueError, match=r"must be a model that `train` wrote; got: .*names"):
        load_bundle(run_folder)


def test_a_model_without_a_name_for_each_class_is_not_saved(run_folder):
    bundle, path = load_bundle(run_folder), run_folder / "model.safetensors"
    for names in ((), named(bundle, ("a", "a"))):
        with pytest.raises(ValueError, match="`class_names` must"):
            save_bundle(path, bundle.model, bundle.config, names)


def test_a_whole_run_is_used_from_its_odd_path(run_folder, command, tmp_path):
    faces = load_bundle(run_folder).config.data.root
    out = tmp_path / "Voraussagen für «alle»"
    status, error = command("predict", faces, "--model", run_folder, "--out", out, "--annotate", 0)
    assert status == 0, error
    assert len((out / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 21
