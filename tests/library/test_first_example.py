"""The first example end to end on a tiny data set, and its figures against naive ones."""

import json
import math

import pytest
import torch
import typer
from idx_files import write_mnist
from typer.testing import CliRunner

from examples import wrap_classifier
from examples.prediction_report import format_table, score
from examples.result_files import open_result


@pytest.fixture
def run(tmp_path):
    app = typer.Typer()
    app.command()(wrap_classifier.main)
    folder = write_mnist(tmp_path / "data", count=64)

    def invoke(*options):
        arguments = ["--data", str(folder), "--out", str(tmp_path / "out"), "--epochs", "2"]
        return CliRunner().invoke(app, [*arguments, "--batch-size", "16", *options])

    return invoke, tmp_path / "out"


def test_the_main_job(run):
    invoke, out = run
    result = invoke("--rate", "0.25")
    assert result.exit_code == 0, result.output
    assert "label noise: symmetric, actual rate 0.2500, seed 0" in result.output
    for name in ("accuracy", "mean class accuracy", "macro f1", "nll", "ece"):
        assert name in result.output
    assert "predictions changed:" in result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["realised_rate"] == 0.25
    assert set(metrics["primary"]) == set(metrics["corrected"])
    assert (out / "corrected.png").read_bytes().startswith(b"\x89PNG")
    assert torch.load(out / "model.pt", weights_only=True)
    assert not list(out.glob(".*")), "no half-written file is left"


@pytest.mark.parametrize(
    "options", [("--noise", "pair"), ("--noise", "none"), ("--recipe", "paper", "--no-refurbish")]
)
def test_other_options(run, options):
    invoke, _ = run
    result = invoke(*options)
    assert result.exit_code == 0, result.output


def test_the_seed_repeats_the_run(run):
    invoke, out = run
    scores = []
    for _ in range(2):
        assert invoke().exit_code == 0
        scores.append(json.loads((out / "metrics.json").read_text())["corrected"])
    assert scores[0] == scores[1]


def test_scores_equal_naive_ones():
    probs = torch.randn(200, 3).softmax(-1)
    labels = torch.randint(3, (200,))
    found = score(probs, probs.log(), labels)
    predicted = probs.argmax(-1).tolist()
    truth = labels.tolist()
    pairs = list(zip(predicted, truth, strict=True))
    assert found.accuracy == pytest.approx(100 * sum(p == y for p, y in pairs) / 200, abs=1e-3)
    recalls, f1 = [], []
    for c in range(3):
        hits = sum(p == y == c for p, y in pairs)
        recall = hits / truth.count(c)
        precision = hits / predicted.count(c)
        recalls.append(recall)
        f1.append(2 * precision * recall / (precision + recall))
    assert found.mean_class_accuracy == pytest.approx(100 * sum(recalls) / 3, abs=1e-3)
    assert found.macro_f1 == pytest.approx(100 * sum(f1) / 3, abs=1e-3)
    nll = -sum(math.log(row[y]) for row, y in zip(probs.tolist(), truth, strict=True)) / 200
    assert found.nll == pytest.approx(nll, abs=1e-5)
    bins = {}
    for row, (p, y) in zip(probs.tolist(), pairs, strict=True):
        bins.setdefault(int(max(row) * 15), []).append((max(row), p == y))
    ece = sum(
        abs(sum(top for top, _ in members) - sum(right for _, right in members))
        for members in bins.values()
    )
    assert found.ece == pytest.approx(100 * ece / 200, abs=1e-3)
    assert "macro f1 (%)" in format_table(found, found)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def write_half():
        with open_result(path) as file:
            file.write(b"half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
