"""The benchmark of selective prediction, on predictions that were made up."""

import pandas as pd
import pytest
import torch

pytest.importorskip("scipy", reason="the benchmarks need scipy")
pytest.importorskip("cleanlab", reason="the benchmarks need cleanlab")

from benchmarks.questions import selection
from benchmarks.reports.selection import report
from reliability_balance import ReliabilityBalancer


def test_a_score_is_judged_by_a_loop():
    score = torch.tensor([0.9, 0.1, 0.8, 0.5, 0.7])
    right = torch.tensor([True, False, False, True, True])
    found = selection.judge(score, right)
    errors = [0, 1, 0, 0, 1]  # the surest first
    sums = [sum(errors[: count + 1]) for count in range(5)]
    assert found["aurc"] == pytest.approx(
        20 * sum(total / (place + 1) for place, total in enumerate(sums))
    )
    assert found["augrc"] == pytest.approx(20 * sum(total / 5 for total in sums))
    assert found["risk"] == pytest.approx(25.0)


def test_all_scores_rank_the_same_predictions(monkeypatch):
    monkeypatch.setattr(selection, "NUM_REFERENCES", (30, 60))
    balancer = ReliabilityBalancer(4, 3, num_anchors=2).eval()
    with torch.no_grad():
        output = balancer(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)))
    scores = selection.scores(output, output.corrected, output)
    assert list(scores) == [
        "maximum probability",
        "confidence",
        "margin",
        "SelectionScore, 30 references",
        "SelectionScore, 60 references",
    ]
    first, second, *_ = output.corrected[0].sort(descending=True).values
    assert float(scores["margin"][0]) == pytest.approx(float(first - second))
    assert all(score.shape == (60,) for score in scores.values())


def test_the_table_marks_significant_differences():
    lines = []
    for seed in range(3):
        plain = {"aurc": 9.0 + seed, "augrc": 4.0, "risk": 20.0}
        better = {"aurc": 8.5 + 1.01 * seed, "augrc": 4.0, "risk": 21.0 + 0.1 * seed}
        found = {"maximum probability": plain, "SelectionScore": better}
        lines.append({"data": "faces", "seed": seed, "error": 30.0, "found": found})
    text = report(pd.DataFrame(lines))
    assert "## faces" in text
    assert "| maximum probability | 10.00 ± 2.48 | | 4.00 ± 0.00 | |" in text
    assert (
        "| SelectionScore | 9.51 ± 2.51 | **-0.49 ± 0.02** | 4.00 ± 0.00 | +0.00 ± 0.00 |" in text
    )
    assert "*+1.10 ± 0.25*" in text
