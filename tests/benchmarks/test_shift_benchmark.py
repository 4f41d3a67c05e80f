"""The shift benchmark: its corruptions, and its judgement and tables of made-up predictions."""

import pandas as pd
import pytest
import torch

pytest.importorskip("scipy", reason="the benchmarks need scipy")
pytest.importorskip("torchvision", reason="the benchmarks need torchvision")

from benchmarks.data.image_shift import SHIFTS, shifted
from benchmarks.questions.shift import Run, judge, predictors
from benchmarks.reports.shift import report
from reliability_balance.calibration import PredictionSets


def drawn_images():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(6, 1, 7, 7, generator=generator).repeat_interleave(4, 2)
    return (255 * smooth.repeat_interleave(4, 3)).byte()


@pytest.mark.parametrize("name", SHIFTS)
def test_each_strength_corrupts_more(name):
    images = drawn_images()
    before = images.clone()
    changes = []
    for strength in range(1, 6):
        corrupt = shifted(images)[name, strength]
        corrupted = corrupt()
        assert corrupted.shape == images.shape
        assert corrupted.dtype == torch.uint8
        assert torch.equal(corrupted, corrupt())
        changes.append(float((corrupted.float() - images.float()).abs().mean()))
    assert torch.equal(images, before)
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_sets_are_judged_by_loops():
    log_probs = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    labels = torch.multinomial(log_probs.exp(), 1).squeeze(1)
    sets = PredictionSets(0.9).fit(log_probs, labels)
    found = judge(log_probs, labels, sets)
    held = [
        row[label] for row, label in zip(sets(log_probs).tolist(), labels.tolist(), strict=True)
    ]
    assert found["coverage"] == pytest.approx(100 * sum(held) / 300, abs=1e-3)
    assert found["set_size"] == pytest.approx(
        sum(map(sum, sets(log_probs).tolist())) / 300, abs=1e-3
    )


def test_the_tables_mark_significant_differences():
    names = {"cross-entropy": ("as trained", "calibrated"), "ours, robust": ("calibrated",)}
    lines = []
    for seed in range(3):
        for method, ways in names.items():
            accuracy = 80.0 + 5 * method.startswith("ours") + 0.1 * seed
            measures = {"accuracy": accuracy, "ece": 4.0, "aurc": 6.0 + 0.1 * seed}
            measures |= {"coverage": 90.0, "set_size": 1.2}
            shifts = {"none 0": measures}
            shifts |= {f"blur {strength}": measures for strength in range(1, 6)}
            run = Run("clean", method, seed, 30)
            lines.append({**run._asdict(), "found": dict.fromkeys(ways, shifts)})
    text = report(pd.DataFrame(lines))
    assert "## Trained on clean labels" in text
    assert f"| ours, robust: calibrated | {' | '.join(['**85.1 ± 0.2**'] * 6)} |" in text
    assert f"| cross-entropy: as trained | {' | '.join(['80.1 ± 0.2'] * 6)} |" in text


class Scores(torch.nn.Module):
    """A method that predicts fixed scores."""

    def log_probs(self, inputs):
        return (9 * inputs).log_softmax(1)


def test_calibration_is_fitted_on_held_out_samples():
    inputs = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.multinomial(inputs.softmax(1), 1).squeeze(1)
    ways = predictors(Scores(), inputs, labels)
    torch.testing.assert_close(ways["as trained"](inputs), (9 * inputs).log_softmax(1))
    torch.testing.assert_close(
        ways["calibrated"](inputs).exp(), inputs.softmax(1), rtol=0, atol=0.05
    )
