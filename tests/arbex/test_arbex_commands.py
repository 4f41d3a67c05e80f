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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import face_trees
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from examples.arbex import model_bundle

MAIN = Path(__file__).resolve().parents[2] / "examples" / "arbex" / "__main__.py"
COMMANDS = ("train", "doubtful", "review", "evaluate", "predict", "audit", "export", "serve")
TINY = {
    "data": {
        "rendered": {"difficulty": "easy", "num_faces": 160, "num_identities": 8, "image_size": 32},
        "image_size": 32,
        "per_class": 12,
    },
    "encoder": {"name": "small_cnn", "options": {"width": 4}},
    "recipe": {"num_anchors": 2, "logit_adjustment": False},
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
    assert figures == {"accuracy", "loss", "embedding", "anchors"}
    assert len((trained / "history.csv").read_text().splitlines()) == 3


def test_a_run_is_not_overwritten_but_goes_on(run, trained):
    with pytest.raises(FileExistsError, match="--resume"):
        run("train", "--out", trained)
    before = (trained / "model.safetensors").read_bytes()
    run("train", "--resume", "--out", trained, "--accelerator", "cpu")
    assert (trained / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "option", [("--set", "seed=3"), ("--corrections", "c.csv"), ("--recipe", "quick")]
)
def test_a_resumed_run_takes_no_other_recipe(run, trained, option):
    with pytest.raises(ValueError, match=rf"--resume must come without .*; got also {option[0]}"):
        run("train", "--resume", *option, "--out", trained)


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


@pytest.fixture
def folders(tmp_path):
    """Two classes, 60 pictures to train on and 20 to test on."""
    for part, count in (("train", 30), ("test", 10)):
        for number in range(2 * count):
            folder = tmp_path / "faces" / part / ("calm", "cross")[number % 2]
            face_trees.write_image(folder / f"{number}.png", 3 * number, size=16)
    return tmp_path / "faces"


def train_on(faces, *options):
    """Options to train on a folder of faces for an epoch."""
    settings = ("data.dataset=folders", f"data.root={faces}", "data.image_size=16", *options)
    tiny = ("encoder.name=small_cnn", "encoder.options={width: 4}", "data.per_class=12")
    short = ("optimization.epochs=1", "optimization.batch_size=8", "recipe.logit_adjustment=false")
    sets = [part for each in (*settings, *tiny, *short) for part in ("--set", each)]
    return ("train", *sets, "--accelerator", "cpu")


def test_train_tells_what_was_left_out(run, folders, tmp_path):
    face_trees.write_image(folders / "train/calm/more/1.png")
    output = run(*train_on(folders), "--out", tmp_path / "run")
    assert (
        "faces: 80 faces; left out, or of a class that only one split has: 1 of 81 (1.2 %)"
        in output
    )
    assert f"image in another place: 1\n    {folders}/train/calm/more: 1.png" in output


def test_train_refuses_data_that_lack_too_much(run, folders, tmp_path):
    for number in range(10):
        face_trees.write_image(folders / f"train/calm/more/{number}.png")
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"`data.max_missing` must .* got 0.1, and 10 of 90 are"):
        run(*train_on(folders), "--out", out)
    assert not out.exists()
    assert "10 of 90" in run(*train_on(folders, "data.max_missing=0.2"), "--out", out)


def test_damage_is_found_before_training_and_begins_no_run(run, folders, tmp_path):
    path = folders / "train/calm/2.png"
    path.write_bytes(path.read_bytes()[:30])
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"calm/2\.png must be .*data\.corrupt=skip"):
        run(*train_on(folders), "--out", out)
    assert not out.exists()
    output = run(*train_on(folders, "data.corrupt=skip"), "--out", out)
    assert "corrupt image: 1" in output


def test_damage_that_nobody_looked_for_names_the_way_out(run, folders, tmp_path):
    for path in (folders / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:30])
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"must be an image.*--resume, or .* data\.corrupt=skip"):
        run(*train_on(folders, "data.corrupt=unchecked"), "--out", out)
    assert (out / "recipe.yaml").exists()
    for number in range(60):
        folder = folders / "train" / ("calm", "cross")[number % 2]
        face_trees.write_image(folder / f"{number}.png", 3 * number, size=16)
    run(*train_on(folders, "seed=3"), "--out", out)  # nothing was trained, so it may begin anew
    assert "seed: 3" in (out / "recipe.yaml").read_text()
    with pytest.raises(FileExistsError, match="--resume"):
        run(*train_on(folders, "seed=4"), "--out", out)


def test_a_recipe_of_ones_own_is_not_overwritten(run, folders, tmp_path):
    recipe = tmp_path / "run/recipe.yaml"
    face_trees.write_text(recipe, "# mine\nseed: 3\n")
    with pytest.raises(FileExistsError, match=r"recipe\.yaml was not written by a run"):
        run(*train_on(folders), "--recipe", recipe, "--out", tmp_path / "run")
    assert recipe.read_text() == "# mine\nseed: 3\n"


@pytest.mark.parametrize("command", ["evaluate", "predict", "export", "serve"])
def test_every_command_takes_the_model_by_one_option(run, command, tmp_path):
    """The file to predict is the only thing that is given by its place."""
    source = (tmp_path,) if command == "predict" else ()
    with pytest.raises(FileNotFoundError, match=r"`model` must be .*none: train first"):
        run(command, *source, "--model", tmp_path / "none")
    run(command, *source, tmp_path / "none", status=2)


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
    assert re.search(
        r"face\.png: \w+ \d\.\d\d, (not sure, )?(unlike the training faces, )?decided by \w+",
        output,
    )
    with Image.open(out / "annotated" / "0001-face.png") as picture:
        assert min(picture.size) > 300
    (tmp_path / "broken.png").write_bytes(b"")
    output = run("predict", tmp_path / "broken.png", "--model", trained, "--out", out, status=1)
    assert "broken.png" in output
    assert "0 bytes" in output


@pytest.mark.parametrize("caution", ["", "every face is “not sure”: no threshold"])
def test_predict_says_that_no_face_can_be_sure(run, trained, tmp_path, monkeypatch, caution):
    post_hoc = SimpleNamespace(
        probability=lambda output: output.confidence,
        is_sure=lambda output: output.confidence > 1,
        is_familiar=lambda output: output.confidence <= 1,
        caution=caution,
    )
    bundle = replace(model_bundle.load_bundle(trained), post_hoc=post_hoc)
    monkeypatch.setattr(model_bundle, "load_bundle", lambda *_: bundle)
    Image.new("RGB", (40, 40)).save(tmp_path / "face.png")
    output = run("predict", tmp_path / "face.png", "--model", trained, "--out", tmp_path / "out")
    assert ("note: every face is “not sure”" in output) == bool(caution)


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


def test_doubtful_lists_the_labels_of_a_run(run, trained):
    before = (trained / "doubtful_labels.csv").read_bytes()
    rows = list(csv.DictReader(before.decode().splitlines()))
    lines = run("doubtful", trained, "--count", 3).splitlines()
    assert lines[0].split() == ["doubt", "given", "suggested", "verdict", "face"]
    for line, row in zip(lines[1:4], rows, strict=False):
        assert line.split()[:3] == [f"{float(row['doubt']):.2f}", row["given"], row["suggested"]]
        assert line.endswith(row["sample"])
    assert lines[4].startswith("Doubtful labels: ")
    assert (trained / "doubtful_labels.csv").read_bytes() == before


def test_the_baseline_is_scored_beside_the_model(run, trained, tmp_path):
    out = tmp_path / "both"
    options = ("--recipe", trained / "recipe.yaml", "--accelerator", "cpu")
    output = run("train", *options, "--baseline", "--out", out)
    assert "cross-entropy: trained in the same job" in output
    metrics = json.loads((out / "metrics.json").read_text())
    run("evaluate", "--model", out / "baseline", "--out", tmp_path / "alone")
    alone = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert metrics["baseline"]["scores"] == alone["corrected"]
    lead = metrics["corrected"]["accuracy"] - alone["corrected"]["accuracy"]
    assert metrics["baseline"]["lead"][0] == pytest.approx(lead, abs=1e-3)
    history, own = ((each / "history.csv").read_bytes() for each in (trained, out))
    assert history == own


def test_audit_writes_text_and_page(run, trained, tmp_path):
    output = run("audit", "--recipe", trained / "recipe.yaml", "--out", tmp_path)
    assert "happiness" in output
    assert "<table" in (tmp_path / "audit.html").read_text()


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
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1


def test_the_page_is_served_until_ctrl_c(trained, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "arbex").symlink_to(trained)
    command = [sys.executable, str(MAIN), "serve"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        printed = process.stdout.readline()
        (port,) = re.findall(r"open http://127\.0\.0\.1:(\d+)/ \(Ctrl-C to stop\)", printed)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert b"ARBEx" in answer.read()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_all_that_is_printed_is_made_printable_first():
    """Names come from files and tables; `say` escapes what a terminal obeys."""
    printing = re.findall(r"\bprint\(.*", MAIN.read_text(encoding="utf-8"))
    assert printing == ['print(f"error: {printable(error)}", file=sys.stderr)']
