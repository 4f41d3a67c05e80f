"""The overhead benchmark's arithmetic and report."""

import pytest

pytest.importorskip("torchvision", reason="the benchmark compares with a ResNet-18")
pytest.importorskip("pytorch_metric_learning", reason="the benchmark compares with SoftTriple")

from dataclasses import asdict

import torch

from benchmarks.cost.gpu_heads import PlainHead, RobustHead
from benchmarks.cost.kernels import kernels_of, robust_step
from benchmarks.cost.paired import Estimate, alternate, estimate, exponent, ratio
from benchmarks.cost.parts import BASE, KERNELS_BEFORE, PARTS, Finding
from benchmarks.questions.overhead_gpu import Step, compare
from benchmarks.reports.costs import report


def test_a_ratio_is_taken_round_by_round():
    seconds = [1.0, 10.0, 100.0]
    assert ratio([3 * value for value in seconds], seconds) == Estimate(3.0, 3.0, 3.0, 3)


def test_the_interval_holds_the_median_of_the_rounds():
    found = estimate([1.0, 1.1, 0.9, 1.0, 5.0])
    assert found.value == 1.0
    assert 0.9 <= found.low <= 1.0 <= found.high <= 5.0


def test_the_exponent_of_a_power_law():
    sizes = [1.0, 10.0, 100.0]
    found = exponent(sizes, [[2 * size**1.5] * 3 for size in sizes])
    assert found.value == pytest.approx(1.5)


def test_every_call_is_timed_in_every_round():
    seconds = alternate({"one": lambda: sum(range(1000)), "two": lambda: None}, 4)
    assert {name: len(values) for name, values in seconds.items()} == {"one": 4, "two": 4}
    assert sum(seconds["one"]) > sum(seconds["two"])


def test_kernels_are_operators_but_no_views_and_no_allocations():
    rows = torch.ones(3, 4, requires_grad=True)

    def call():
        with torch.profiler.record_function("balancer"):
            loss = (rows.T.reshape(-1) + torch.empty(12)).sum()  # a copy, an addition, a sum
        loss.backward()  # ones, and the gradient in the layout of the rows

    found = kernels_of(call)
    assert (found["balancer"], found["targets"]) == (3, 0)
    assert found["all"] == 5


def test_a_step_launches_no_more_kernels_than_before():
    assert kernels_of(robust_step(BASE))["all"] < KERNELS_BEFORE[False]


@pytest.mark.parametrize("part", ["sampler", "encoder", "kernels"])
def test_a_small_part_gives_findings(part):
    findings = list(PARTS[part](True))
    assert findings
    assert all(finding.estimate.value > 0 for finding in findings)


def test_whole_steps_are_compared():
    steps = {"robust": Step(RobustHead)}
    findings = list(compare("linear", Step(PlainHead), steps, torch.device("cpu"), quick=True))
    assert [finding.question for finding in findings] == ["robust / linear"] * 2
    assert all(finding.estimate.value > 0 for finding in findings)


def test_figures_above_what_was_asked_for_are_in_bold():
    findings = [
        Finding("slow", "here", Estimate(2.0, 1.9, 2.1, 5), 10.0, limit=1.5),
        Finding("fast", "here", Estimate(0.5, 0.4, 0.6, 5)),
    ]
    part = {
        "about": "",
        "machine": {"torch": "1"},
        "findings": [asdict(finding) for finding in findings],
    }
    text = report({"sampler": part}, "Overhead", "")
    assert "| slow | here | **2** | 1.9 to 2.1 | 10 | ≤ 1.5 |" in text
    assert "| fast | here | 0.5 | 0.4 to 0.6 | | |" in text
