"""The out-of-distribution benchmark on a network that was not trained."""

import pandas as pd
import pytest
import torch

pytest.importorskip("pytorch_ood", reason="the benchmark needs pytorch-ood")

from benchmarks.data.strange import DATA, letters, without
from benchmarks.data.task import Task
from benchmarks.methods.detectors import OURS, Trained
from benchmarks.networks import perceptron
from benchmarks.questions.out_of_distribution import Network, auroc, fpr_at_95, judge
from benchmarks.reports.out_of_distribution import report
from reliability_balance import ReliabilityBalancer


def test_auroc_and_fpr_are_counted_by_a_loop():
    known, strange = torch.arange(100.0), torch.tensor([3.5, 50.0, 94.0, 200.0])
    pairs = [(s > k) + (s == k) / 2 for s in strange.tolist() for k in known.tolist()]
    assert auroc(known, strange) == pytest.approx(100 * sum(pairs) / len(pairs))
    threshold = sorted(known.tolist())[94]  # 95 of 100 are accepted
    assert fpr_at_95(known, strange) == 100 * sum(s <= threshold for s in strange.tolist()) / 4


def test_letters_are_drawn_alike_for_a_seed():
    drawn = letters(60, seed=1)
    assert drawn.shape == (60, 784)
    assert bool((drawn.amax(1) > 0.5).all())
    assert torch.equal(drawn, letters(60, seed=1))
    assert not torch.equal(drawn, letters(60, seed=2))


def test_the_held_out_class_is_in_neither_set():
    labels, inputs = torch.tensor([0, 1, 2, 1]), torch.arange(4.0).unsqueeze(1)
    task = Task(inputs, labels, torch.eye(3)[labels], inputs, labels, 3, perceptron(1))
    smaller, strange = without(task, 1)
    assert smaller.labels.tolist() == smaller.test_labels.tolist() == [0, 1]
    assert smaller.inputs.flatten().tolist() == [0.0, 2.0]
    assert strange.flatten().tolist() == [1.0, 3.0]
    assert smaller.truth.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_network_is_judged_and_rendered():
    generator = torch.Generator().manual_seed(0)
    balancer = ReliabilityBalancer(8, 3).eval().requires_grad_(False)

    def output(count, shift):
        return balancer(torch.rand(count, 8, generator=generator) + shift)

    labels = torch.arange(1500) % 3
    network = Network(
        Trained(output(1500, 0.0), labels, balancer.head),
        output(100, 0.0),
        {"digits": output(50, 9.0)},
    )
    lines = [
        {"data": "Fashion-MNIST", "labels": "clean", "seed": seed, **judge(network)}
        for seed in (100, 101)
    ]
    assert lines[0]["found"][OURS]["digits"] == [100.0, 0.0]
    lines.append({"data": "cost", "labels": "", "seed": 100, "share": 0.25})
    text = report(pd.DataFrame(lines), list(DATA))
    assert "| Fashion-MNIST | clean | digits | 100.0 ± 0.0 |" in text
    assert "Familiarity is behind in 0 of 1 rows by AUROC" in text
    assert "one thread): 0.250." in text
