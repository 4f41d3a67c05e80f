"""The benchmark of doubtful labels: what counts as truth, both competitors, the report."""

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
pytest.importorskip("cleanlab", reason="the benchmark compares with it")
pytest.importorskip("pytorch_metric_learning", reason="the benchmarks compare with its losses")

import pandas as pd
from small_task import make_task

from benchmarks.data import tasks
from benchmarks.data.ambiguous_faces import AmbiguousFaces
from benchmarks.questions import doubtful_labels
from benchmarks.questions.doubtful_labels import Run, do_run, judge_kinds
from benchmarks.reports.doubtful_labels import report
from reliability_balance.labels import LabelRanking


def test_truth_of_faces_by_hand():
    distributions = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.55, 0.45, 0.0]]).repeat(2, 1)
    before = torch.tensor([0, 0, 1, 0, 0, 0])
    labels = torch.tensor([2, 0, 1, 0, 1, 2])  # wrong, right, minority, right, plausible, wrong
    ranking = LabelRanking(
        sample=torch.tensor([5, 0, 2, 4, 1, 3]),
        given=torch.tensor([2, 2, 1, 1, 0, 0]),
        suggested=torch.tensor([0, 0, 0, 0, 0, 0]),
        doubt=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2, 0.1]),
        plausibility=torch.tensor([0.2, 0.1, 0.4, 0.3, 0.9, 1.0]),
        verdict=torch.tensor([2, 2, 1, 2, 0, 0]),
    )
    judged = judge_kinds(ranking, AmbiguousFaces(labels, labels, before, distributions))
    assert (judged["mislabelled"], judged["ambiguous"], judged["minority"]) == (2, 1, 1)
    assert judged["ambiguous_auroc"] == judged["minority_auroc"] == 1.0
    # Replaced are 5, 0 and 4, of which 4 is doubted less than 2: 8 of 9 pairs are in order.
    assert judged["wrong_label_auroc"] == pytest.approx(8 / 9)
    assert judged["verdicts"] == {
        "mislabelled": [0, 0, 2],
        "ambiguous": [0, 1, 0],
        "neither": [2, 0, 1],
    }


def test_both_competitors_run_and_are_reported(monkeypatch):
    monkeypatch.setattr(doubtful_labels, "OUR_EPOCHS", 3)
    monkeypatch.setattr(doubtful_labels, "FULL_EPOCHS", 4)
    monkeypatch.setitem(tasks.DATA, "fashion-10k", lambda seed: make_task(640))
    lines = [do_run(Run(data, seed)) for data in ("symmetric-40", "clean") for seed in (0, 1)]
    assert list(lines[0]["found"]) == [
        "ours",
        "cleanlab self_confidence 4",
        "cleanlab normalized_margin 4",
        "cleanlab self_confidence 3",
        "cleanlab normalized_margin 3",
    ]
    for found in lines[0]["found"].values():
        assert 0 <= found["auroc"] <= 1
        assert found["cpu"] > 0
    assert lines[2]["noise"]["true"] == 0
    kinds = {"mislabelled": [1, 1, 8], "ambiguous": [4, 3, 3], "neither": [10, 0, 0]}
    scores = {"ambiguous_auroc": 0.9, "minority_auroc": 0.8, "wrong_label_auroc": 0.95}
    counts = {"mislabelled": 10, "ambiguous": 10, "minority": 5}
    lines += [{**Run("faces", 0)._asdict(), **scores, **counts, "verdicts": kinds}]
    text = report(pd.DataFrame(lines))
    assert text.count("| ours | 3 |") == 1
    assert "| symmetric-40 | 40.0 |" in text
    assert "| mislabelled | 10.0 | 10.0 | 80.0 |" in text
