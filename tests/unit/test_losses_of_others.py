"""The losses that ours is compared with, against loops written from their papers."""

import math

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

from losses_of_others import (
    center_distance,
    early_learning_term,
    focal,
    generalised_cross_entropy,
    mix_by_uncertainty,
    rank_regularisation,
    symmetric_cross_entropy,
)
from methods_of_others import log_prior_of, logit_adjusted
from small_task import make_task

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.3, 0.1], [-2.0, 1.0, 3.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])
PROBS = [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in LOGITS.tolist()]
OF_LABEL = [row[label] for row, label in zip(PROBS, LABELS.tolist(), strict=True)]


def mean(values):
    values = list(values)
    return pytest.approx(sum(values) / len(values), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal(gamma):
    expected = mean(-((1 - p) ** gamma) * math.log(p) for p in OF_LABEL)
    assert float(focal(LOGITS, LABELS, gamma=gamma)) == expected


@pytest.mark.parametrize("q", [0.3, 0.7])
def test_generalised_cross_entropy(q):
    assert float(generalised_cross_entropy(LOGITS, LABELS, q=q)) == mean(
        (1 - p**q) / q for p in OF_LABEL
    )


def test_symmetric_cross_entropy():
    """The reverse one has the log of a one-hot label, where 0 counts as -4."""
    expected = []
    for row, label in zip(PROBS, LABELS.tolist(), strict=True):
        reverse = -sum(p * (0 if c == label else -4) for c, p in enumerate(row))
        expected.append(0.1 * -math.log(row[label]) + reverse)
    assert float(symmetric_cross_entropy(LOGITS, LABELS)) == mean(expected)


def test_early_learning_term():
    average = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]).double()
    expected = mean(
        math.log(1 - sum(a * p for a, p in zip(one, row, strict=True)))
        for one, row in zip(average.tolist(), PROBS, strict=True)
    )
    assert float(early_learning_term(LOGITS, average)) == expected


def test_rank_regularisation():
    weights = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.95, 0.2])
    high = (0.95 + 0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4) / 7
    low = (0.3 + 0.2 + 0.1) / 3
    assert float(rank_regularisation(weights, margin=0.7)) == pytest.approx(0.7 - (high - low))
    assert float(rank_regularisation(weights, margin=0.1)) == 0


def test_center_distance():
    embedding, centers = torch.randn(3, 4), torch.randn(3, 4)
    expected = sum(
        float((embedding[i] - centers[label]) @ (embedding[i] - centers[label])) / 2
        for i, label in enumerate(LABELS.tolist())
    )
    assert float(center_distance(embedding, LABELS, centers)) == pytest.approx(expected / 3)


def test_a_pair_is_mixed_by_its_shares_of_the_uncertainty():
    """The harder of two has the larger part, or it could not be told in the mixture."""
    embedding, log_scale = torch.randn(3, 4), torch.tensor([[2.0], [-1.0], [0.5]])
    partner = torch.tensor([1, 2, 0])
    mixed = mix_by_uncertainty(embedding, log_scale, partner)
    for i, j in enumerate(partner.tolist()):
        own, other = math.exp(log_scale[i]), math.exp(log_scale[j])
        expected = (own * embedding[i] + other * embedding[j]) / (own + other)
        torch.testing.assert_close(mixed[i], expected)


def test_logit_adjustment_trains_on_frequencies_and_answers_for_even_ones():
    task = make_task()
    task = task._replace(labels=torch.tensor([0] * 280 + [1] * 15 + [2] * 5))
    log_prior = log_prior_of(task)
    torch.testing.assert_close(log_prior.exp(), torch.tensor([281.0, 16.0, 6.0]) / 303)
    method = logit_adjusted(task).eval()
    index = torch.arange(8)
    inputs, labels = task.inputs[:8], task.labels[288:296]
    losses = [
        -float((logits + log_prior).log_softmax(-1)[label].detach())
        for logits, label in zip(method.logits(inputs), labels, strict=True)
    ]
    loss = float(method.loss(index, inputs, labels, 0).detach())
    assert loss == pytest.approx(sum(losses) / 8, rel=1e-5)
    torch.testing.assert_close(method.log_probs(inputs), method.logits(inputs).log_softmax(-1))
