"""Figures 5 to 7 without pictures, on a small tree, and their counts by naive loops."""

import face_trees
import pytest
import torch

pytest.importorskip("lightning", reason="the ARBEx example needs Lightning")

from benchmarks.application import how
from benchmarks.questions import paper_table5
from benchmarks.questions.paper_figures import BINS, count_confidences, main
from benchmarks.runs import ResultsError
from examples.arbex.configuration import load_config
from reliability_balance import ReliabilityBalancer

TINY = [
    "data.image_size=16",
    "data.per_class=null",
    "encoder.name=small_cnn",
    "encoder.options={width: 4}",
    "optimization.epochs=1",
    "optimization.batch_size=8",
]


def test_draws_the_figures_of_a_run_and_renders_them_again(tmp_path, capsys):
    root, results = face_trees.raf_db(tmp_path / "raf"), tmp_path / "results"
    runs = tmp_path / "runs"
    with pytest.raises(ResultsError, match=r"raf-db-robust must hold .* paper_table5 raf-db"):
        main("raf-db", ["robust"], runs, results)
    paper_table5.main("raf-db", root, "robust", TINY, runs, tmp_path)
    capsys.readouterr()
    main("raf-db", ["robust"], runs, results)
    printed = capsys.readouterr().out
    for part in ("Fig. 5", "Fig. 6", "Fig. 7", "| robust | right | ", "1 epochs of all faces"):
        assert part in printed
    figures = {path.name: path for path in results.glob("*.png")}
    assert set(figures) == {
        f"paper_figures_raf-db_{name}.png"
        for name in ("confidence", "embedding_robust", "training")
    }
    content = (results / "paper_figures_raf-db.json").read_text()
    assert str(tmp_path) not in content
    figures["paper_figures_raf-db_confidence.png"].unlink()
    main("raf-db", results=results, render_only=True)
    assert capsys.readouterr().out == printed
    assert figures["paper_figures_raf-db_confidence.png"].stat().st_size > 1000


def test_results_do_not_name_the_folders_of_a_user(tmp_path, monkeypatch):
    given = ["paper_table5", str(tmp_path), "--runs", str(tmp_path / "not yet")]
    monkeypatch.setattr("sys.argv", ["benchmarks", *given, "--recipe", "paper"])
    command = how(load_config("paper"))["command"]
    assert command == "python -m benchmarks paper_table5 FOLDER --runs FOLDER --recipe paper"


def test_confidences_are_counted_as_by_a_loop():
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(6, 3).eval()
    with torch.inference_mode():
        output = balancer(3 * torch.randn(200, 6))
    labels = torch.randint(3, (200,))
    found = count_confidences(output, labels)
    raised = {"right": [], "wrong": []}
    for branch in ("primary", "corrected"):
        tops = {"right": [], "wrong": []}
        for row, label in enumerate(labels.tolist()):
            probs = getattr(output, branch)[row].tolist()
            tops["right" if probs.index(max(probs)) == label else "wrong"].append(max(probs))
        for kind, values in tops.items():
            counts = [0] * BINS
            for value in values:
                counts[min(int(value * BINS), BINS - 1)] += 1
            assert found[branch][kind]["counts"] == counts
            assert found[branch][kind]["mean"] == pytest.approx(sum(values) / len(values))
    for row, label in enumerate(labels.tolist()):
        probs = output.corrected[row].tolist()
        kind = "right" if probs.index(max(probs)) == label else "wrong"
        raised[kind].append(max(probs) > max(output.primary[row].tolist()))
    for kind, each in raised.items():
        assert found["raised"][kind] == pytest.approx(sum(each) / len(each))


def test_a_branch_without_wrong_predictions_has_no_mean_for_them():
    with torch.inference_mode():
        output = ReliabilityBalancer(6, 3).eval()(torch.randn(4, 6))
    found = count_confidences(output, output.corrected.argmax(-1))
    assert found["corrected"]["wrong"] == {"counts": [0] * BINS, "mean": None}
    assert found["raised"]["wrong"] is None
