"""The benchmarks of prediction sets and label shift, on predictions that were made up."""

import pytest
import torch

pytest.importorskip("scipy", reason="the benchmarks need scipy")
pytest.importorskip("cleanlab", reason="the benchmarks need cleanlab")

import pandas as pd

from benchmarks.questions import class_coverage, label_shift


def sampled(labels, num_classes, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(len(labels), num_classes, generator=generator)
    points += 1.5 * torch.nn.functional.one_hot(labels, num_classes)
    return (scale * 1.5 * points).log_softmax(1)  # calibrated for even classes where the scale is 1


def test_coverage_is_judged_and_rendered(monkeypatch):
    monkeypatch.setattr(class_coverage, "DRAWS", 4)
    labels, test_labels = (torch.arange(10).repeat(count) for count in (2100, 400))
    pool, test = (sampled(each, 10, seed) for seed, each in enumerate((labels, test_labels)))
    generator = torch.Generator().manual_seed(0)
    chosen, rest = class_coverage.draw(torch.arange(len(labels)), labels, generator)
    assert labels[chosen].bincount().tolist() == class_coverage.COUNTS
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(len(labels)))
    rows = torch.arange(len(labels))
    found = class_coverage.judge(pool, labels, rows, test, test_labels, generator)
    assert found["coverage"]["lac class"][0] == pytest.approx(90, abs=5)
    lines = [{"method": "ours, robust", "seed": seed, **found} for seed in (100, 101)]
    text = class_coverage.report(pd.DataFrame(lines))
    assert text.count("\n| raps | one for each class | ") == 1


def test_estimates_are_judged_and_rendered():
    generator = torch.Generator().manual_seed(0)
    held_labels = torch.arange(3).repeat(3000)
    shifted = torch.tensor([0.8, 0.15, 0.05])
    test_labels = torch.multinomial(shifted, 6000, replacement=True, generator=generator)
    held, test = (
        sampled(each, 3, seed, 3.0) for seed, each in enumerate((held_labels, test_labels))
    )
    found = label_shift.judge(label_shift.Predictions(held, held_labels, test, test_labels))
    assert found["error none"] > 8
    assert max(found[f"error {way}"] for way in ("temperature", "vector", "bbse")) < 4
    assert found["accuracy temperature"] > found["accuracy source temperature"] + 2
    assert found["accuracy temperature"] == pytest.approx(found["accuracy true vector"], abs=0.5)
    lines = [{"data": "fer2013", "method": "ours", "seed": seed, **found} for seed in (100, 101)]
    text = label_shift.report(pd.DataFrame(lines))
    assert "| ours | BBSE, temperature scaling | 2 | " in text
