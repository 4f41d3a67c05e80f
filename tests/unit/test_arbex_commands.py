"""The commands, run in this process on a few rendered faces and a tiny encoder."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

MAIN = Path(__file__).resolve().parents[2] / "examples" / "arbex" / "__main__.py"
COMMANDS = ("train", "evaluate", "predict", "inspect-data", "export", "serve")
TINY = {
    "data": {
        "rendered": {"difficulty": "easy", "num_faces": 160, "num_identities": 8, "image_size": 32},
        "image_size": 32,
        "per_class": 12,
    },
    "encoder": {"name": "small_cnn", "options": {"width": 4}},
    "balancer": {"num_anchors": 2, "head": "linear"},
    "targets": {"warmup": 1},
    "optimization": {"epochs": 2, "batch_size": 12},
}


@pytest.fixture(scope="module")
def application():
    return runpy.run_path(str(MAIN), run_name="arbex_application")["app"]


@pytest.fixture(scope="module")
def run(application):
    def invoke(*arguments, status=0):
        result = CliRunner().invoke(application, [str(each) for each in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result.output

    return invoke


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    recipe = {**TINY, "data": {**TINY["data"], "root": str(folder / "cache")}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    out = folder / "run"
    output = run("train", "--recipe", folder / "tiny.yaml", "--out", out, "--accelerator", "cpu")
    assert "written:" in output
    return out


def test_train_leaves_everything_that_is_promised(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        *("recipe.yaml", "versions.json", "checkpoint.ckpt", "model.safetensors", "history.csv"),
        *("tensorboard", "metrics.json", "metrics.txt", "report.html", "figures"),
    }
    figures = {path.stem for path in (trained / "figures").iterdir()}
    assert figures == {"faces", "reliability", "confusion", "embedding", "anchors", "training"}
    assert len((trained / "history.csv").read_text().splitlines()) == 3


def test_a_run_is_not_overwritten_but_goes_on(run, trained):
    with pytest.raises(FileExistsError, match="--resume"):
        run("train", "--out", trained)
    before = (trained / "model.safetensors").read_bytes()
    run("train", "--resume", "--out", trained, "--accelerator", "cpu")
    assert (trained / "model.safetensors").read_bytes() == before


def test_data_that_cannot_be_read_begin_no_run(run, tmp_path):
    options = ("--set", "data.dataset=raf-db", "--set", f"data.root={tmp_path / 'none'}")
    with pytest.raises(FileNotFoundError, match="none"):
        run("train", *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_has_begun_no_run(run, trained, tmp_path):
    recipe, batch = trained / "recipe.yaml", "optimization.batch_size=9999"
    with pytest.raises(ValueError, match="batch_size"):
        run("train", "--recipe", recipe, "--set", batch, "--out", tmp_path)
    assert not (tmp_path / "recipe.yaml").exists()


def test_evaluate_repeats_the_run_and_takes_overrides(run, trained, tmp_path):
    run("evaluate", "--model", trained, "--out", tmp_path / "same")
    first, second = (
        json.loads((folder / "metrics.json").read_text()) for folder in (trained, tmp_path / "same")
    )
    assert first["corrected"] == second["corrected"]
    option = "data.rendered.seed=9"
    run("evaluate", "--model", trained, "--set", option, "--out", tmp_path / "other")
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert other["corrected"] != first["corrected"]


def test_predict_writes_tables_and_annotated_pictures(run, trained, tmp_path):
    Image.new("RGB", (40, 40), (180, 140, 120)).save(tmp_path / "face.png")
    out = tmp_path / "out"
    output = run("predict", tmp_path / "face.png", "--model", trained, "--out", out)
    assert re.search(r"face\.png: \w+ \d\.\d\d, confidence \d\.\d\d, decided by \w+", output)
    with Image.open(out / "annotated" / "0001-face.png") as picture:
        assert min(picture.size) > 300
    (tmp_path / "broken.png").write_bytes(b"")
    output = run("predict", tmp_path / "broken.png", "--model", trained, "--out", out, status=1)
    assert "broken.png" in output
    assert "0 bytes" in output


def test_a_name_that_is_no_utf_8_loses_nothing(run, trained, tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    names = ["=1\x1b[2J.png", "b.png", os.fsdecode(b"caf\xe9.png"), f"{'long' * 60}.png"]
    for name in names:
        Image.new("RGB", (40, 40), (180, 140, 120)).save(source / name)
    (source / "z.mp4").write_bytes(b"")
    out = tmp_path / "out"
    output = run("predict", source, "--model", trained, "--out", out, status=1)
    assert "\x1b" not in output
    assert r"caf\udce9.png: " in output
    assert "z.mp4: " in output
    found = json.loads((out / "predictions.json").read_text())
    assert [row["name"] for row in found] == [*names, "z.mp4"]
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows][2] == r"caf\udce9.png"
    assert rows[0]["name"].startswith("'=1")
    assert len(list((out / "annotated").iterdir())) == 4


def test_inspect_data_writes_text_and_page(run, trained, tmp_path):
    output = run("inspect-data", "--recipe", trained / "recipe.yaml", "--out", tmp_path)
    assert "happiness" in output
    assert "<table" in (tmp_path / "inspection.html").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(run, command):
    output = run(command, "--help")
    assert "Usage:" in output
    assert len(output) > 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "data.foo=1"], "--set: unknown key `data.foo`"),
        (["--set", "seed=x"], "--set: `seed` must be a valid integer; got 'x'"),
        (["--set", "data.splits.held_out=12"], "--set: `data.splits.held_out` must be a list"),
        (["--set", "seed=1", "--set", "seed=2"], "--set must give each key once; got seed and"),
        (["--recipe", "\x1b[31m\n"], r"got \x1b[31m\n"),
    ],
)
def test_wrong_input_is_told_without_a_traceback(monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["arbex", "train", *options])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(MAIN), run_name="__main__")
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_the_page_is_served_until_ctrl_c(trained, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "arbex").symlink_to(trained)
    command = [sys.executable, str(MAIN), "serve"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        told = process.stdout.readline()
        (port,) = re.findall(r"open http://127\.0\.0\.1:(\d+)/ \(Ctrl-C to stop\)", told)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert b"ARBEx" in answer.read()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_all_that_is_printed_is_made_printable_first():
    """Names come from files and tables; :func:`plain_text.say` escapes what a terminal obeys."""
    printing = re.findall(r"\bprint\(.*", MAIN.read_text(encoding="utf-8"))
    assert printing == ['print(f"error: {printable(error)}", file=sys.stderr)']
