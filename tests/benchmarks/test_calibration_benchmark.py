"""The calibration benchmark on predictions that were made up."""

import pytest
import torch

pytest.importorskip("scipy", reason="the benchmarks need scipy")

import pandas as pd

from benchmarks.questions.calibration import Predictions, coverage, judge
from benchmarks.reports.calibration import report
from reliability_balance import ReliabilityBalancer


def sampled(count=6000, scale=2.5):
    """Logits off by a factor, true labels, and labels with 30 % pair noise."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    moved = torch.rand(count, generator=generator) < 0.3
    noise_matrix = 0.7 * torch.eye(3) + 0.3 * torch.eye(3).roll(1, 1)
    return scale * logits, labels, (labels + moved) % 3, noise_matrix


def test_sets_hold_what_was_asked_for():
    logits, labels, _, _ = sampled()
    found = coverage(logits.log_softmax(1), labels, seed=0)
    assert found["coverage"] == pytest.approx(90, abs=2)
    assert 1 < found["set_size"] < 3


def test_a_run_is_judged_and_rendered():
    logits, labels, noisy, noise_matrix = sampled(200)
    output = ReliabilityBalancer(3, 3).eval()(logits)
    output = type(output)(*(each if each is None else each.detach() for each in output))
    lines = []
    for method, ours in (("cross-entropy", False), ("ours, robust", True)):
        predictions = Predictions(
            logits.log_softmax(1), labels, noisy, logits.log_softmax(1), labels,
            *((output, output, noise_matrix) if ours else (None, None, None)),
        )  # fmt: skip
        for seed in (100, 101):
            named = {"corruption": "pair-30", "method": method, "seed": seed}
            lines.append({**named, **judge(predictions, seed)})
    text = report(pd.DataFrame(lines))
    assert "| ours, robust | temperature, noisy labels, learned noise matrix | 2 |" in text
    assert "| temperature of each branch, clean labels | temperature, clean labels |" in text
