"""The scale benchmark on small sizes."""

import json

import pytest
import torch

pytest.importorskip("torchvision", reason="the benchmark shares parts with the overhead's")
pytest.importorskip("pytorch_metric_learning", reason="the benchmark shares parts with it, too")

from benchmarks.cost.machine import peak_allocated
from benchmarks.cost.ranks import steps_of_ranks
from benchmarks.cost.targets import fill_and_rank, filled
from benchmarks.questions import scale
from reliability_balance.labels import (
    RefurbishedTargets,
    embedding_beliefs,
    estimate_noise,
    inspect_embeddings,
    noise_estimate,
    rank_labels,
    rows,
)


def test_a_small_part_gives_findings_and_a_page(tmp_path, capsys):
    scale.main(part=["step"], quick=True, results=tmp_path)
    findings = json.loads((tmp_path / "scale.json").read_text())["step"]["findings"]
    assert [each["setup"] for each in findings] == ["10 classes", "100 classes"]
    assert all(each["estimate"]["value"] > 0 for each in findings)
    page = (tmp_path / "scale.md").read_text()
    assert page.startswith("# Many classes and samples")
    assert page in capsys.readouterr().out


def test_a_step_on_ranks_is_timed_and_what_it_sends_is_counted():
    found = steps_of_ranks((1, 2), 40, 3)
    assert [(size, len(each.seconds)) for size, each in found.items()] == [(1, 3), (2, 3)]
    assert min(min(each.seconds) for each in found.values()) > 0.0
    handshake = 5 * 8
    assert found[1][1:] == (1, handshake)
    # Rows of at most 0.4 kB, and sums over the classes.
    assert found[2].collectives == 3
    assert handshake < found[2].sent < handshake + 128 * 400 + 4 * (3 * 40 + 6)


@pytest.mark.filterwarnings("ignore:no verdicts|the noise estimate")
@pytest.mark.parametrize(("name", "count"), [("rank", 3000), ("estimate", 3000), ("inspect", 800)])
def test_memory_does_not_grow_by_a_row_of_all_classes_for_each_sample(name, count, monkeypatch):
    classes = 400
    monkeypatch.setattr(rows, "BLOCK", 2**15)
    monkeypatch.setattr(noise_estimate, "HELD", 0)
    monkeypatch.setattr(noise_estimate, "MAX_STEPS", 1)
    monkeypatch.setattr(embedding_beliefs, "PRODUCT_BLOCK", 2**16)

    def peak(samples):
        targets, labels = filled(samples, classes)
        embeddings = torch.randn(samples, 8)
        calls = {
            "rank": lambda: rank_labels(targets, labels),
            "estimate": lambda: estimate_noise(targets, labels, num_resamples=2),
            "inspect": lambda: inspect_embeddings(embeddings, labels, classes),
        }
        return peak_allocated(calls[name])

    assert peak(2 * count) - peak(count) < count * classes * 2  # half of a float32 each


def test_filled_rows_are_of_distinct_classes_and_can_be_ranked():
    targets, labels = filled(300, 40)
    assert isinstance(targets, RefurbishedTargets)
    classes = targets.averages.classes
    assert all(len(set(row)) == 15 for row in classes.tolist())
    assert classes[:, 0].tolist() == labels.tolist()
    assert fill_and_rank(300, 40) >= 0.0


def test_the_bootstrap_holds_one_matrix_for_each_resample(monkeypatch):
    count, classes, resamples = 80, 40, 60
    monkeypatch.setattr(rows, "BLOCK", 2**12)
    monkeypatch.setattr(noise_estimate, "MAX_STEPS", 1)
    beliefs = torch.randn(count, classes).softmax(-1)
    labels = torch.arange(count) % classes
    start = torch.full((classes, classes), 1 / classes)
    peak = peak_allocated(
        lambda: noise_estimate.noise_from_beliefs(beliefs, labels, start, num_resamples=resamples)
    )
    assert peak < 1.3 * 4 * resamples * classes**2
