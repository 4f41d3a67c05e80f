"""The losses that ours is compared with, against loops written from their papers."""

import math

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

from small_task import make_task

from benchmarks.methods.base import log_prior_of
from benchmarks.methods.losses import (
    center_distance,
    class_balance,
    early_learning_term,
    focal,
    generalised_cross_entropy,
    mix_by_uncertainty,
    mixmatch,
    mixup,
    over_parameterised,
    rank_regularisation,
    soft_cross_entropy,
    symmetric_cross_entropy,
    view_consistency,
)
from benchmarks.methods.others import logit_adjusted

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.3, 0.1], [-2.0, 1.0, 3.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0], [0.3, 0.4, 0.3]], dtype=torch.float64)
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


def test_generalised_cross_entropy_of_soft_labels():
    assert float(generalised_cross_entropy(LOGITS, SOFT, q=0.7)) == mean(
        sum(share * (1 - p**0.7) / 0.7 for share, p in zip(labels, row, strict=True))
        for labels, row in zip(SOFT.tolist(), PROBS, strict=True)
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


def test_soft_cross_entropy():
    losses = soft_cross_entropy(LOGITS.log_softmax(-1), SOFT)
    for loss, labels, row in zip(losses.tolist(), SOFT.tolist(), PROBS, strict=True):
        expected = -sum(share * math.log(p) for share, p in zip(labels, row, strict=True))
        assert loss == pytest.approx(expected)


def test_over_parameterisation():
    """Cross-entropy of p + u^2 y - v^2 (1 - y), made to sum to one, and a squared error."""
    u = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.4, 0.9], [0.0, 0.7, 0.2]]).double()
    v = torch.tensor([[0.3, 0.1, 0.2], [0.9, 0.9, 0.1], [0.2, 0.0, 0.6]]).double()
    losses = []
    for labels, row, a, b in zip(SOFT.tolist(), PROBS, u.tolist(), v.tolist(), strict=True):
        noisy, squared = [], 0.0
        for c, y in enumerate(labels):
            noise = a[c] ** 2 * y - b[c] ** 2 * (1 - y)
            noisy.append(max(row[c] + noise, 1e-4))
            squared += ((1.0 if row[c] == max(row) else 0.0) + noise - y) ** 2
        shares = [each / sum(noisy) for each in noisy]
        entropy = -sum(y * math.log(p) for y, p in zip(labels, shares, strict=True))
        losses.append(entropy + squared)
    assert float(over_parameterised(LOGITS, SOFT, u, v)) == mean(losses)


def test_cross_entropy_moves_u_and_the_squared_error_v():
    u, v = (torch.full_like(SOFT, 0.1).requires_grad_() for _ in range(2))
    over_parameterised(LOGITS, SOFT, u, v).backward()
    for row in range(3):
        noisy = [
            max(p + 0.01 * y - 0.01 * (1 - y), 1e-4)
            for p, y in zip(PROBS[row], SOFT[row].tolist(), strict=True)
        ]
        hard = PROBS[row].index(max(PROBS[row]))
        for c, y in enumerate(SOFT[row].tolist()):
            slope = (1 / sum(noisy) - y / noisy[c]) * 2 * 0.1 * y / 3
            assert float(u.grad[row, c]) == pytest.approx(slope, abs=1e-9)
            error = (c == hard) + 0.01 * y - 0.01 * (1 - y) - y
            assert float(v.grad[row, c]) == pytest.approx(-2 * error * 2 * 0.1 * (1 - y) / 3)


def test_class_balance():
    prior = [0.5, 0.3, 0.2]
    means = [sum(row[c] for row in PROBS) / 3 for c in range(3)]
    expected = sum(p * math.log(p / m) for p, m in zip(prior, means, strict=True))
    balance = class_balance(LOGITS.log_softmax(-1), torch.tensor(prior).double())
    assert float(balance) == pytest.approx(expected)


def test_consistency_pulls_the_second_view_alone():
    first, second = LOGITS.clone().requires_grad_(), LOGITS.flip(0).clone().requires_grad_()
    loss = view_consistency(first, second)
    loss.backward()
    assert float(loss.detach()) == mean(
        sum(p * math.log(p / q) for p, q in zip(row, other, strict=True))
        for row, other in zip(PROBS, reversed(PROBS), strict=True)
    )
    assert first.grad is None
    assert second.grad.abs().sum() > 0


def test_mixmatch():
    trusted = torch.tensor([True, False, True])
    known = [
        -sum(y * math.log(p) for y, p in zip(SOFT[i].tolist(), PROBS[i], strict=True))
        for i in (0, 2)
    ]
    guessed = sum((p - y) ** 2 for y, p in zip(SOFT[1].tolist(), PROBS[1], strict=True)) / 3
    assert float(mixmatch(LOGITS, SOFT, trusted, 2.0)) == pytest.approx(
        sum(known) / 2 + 2 * guessed
    )
    assert float(mixmatch(LOGITS[:1], SOFT[:1], trusted[:1], 2.0)) == pytest.approx(known[0])


def test_mixup_mixes_inputs_and_targets_alike_and_keeps_the_greater_part():
    torch.manual_seed(0)
    inputs = torch.eye(5)
    mixed, targets = mixup(inputs, inputs, 1.0)
    torch.testing.assert_close(mixed, targets)
    torch.testing.assert_close(mixed.sum(1), torch.ones(5))
    assert (mixed.diagonal() >= 0.5).all()


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
    """The harder of two has the larger part, or it could not be recognized in the mixture."""
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
    method = logit_adjusted(task, 1).eval()
    index = torch.arange(8)
    inputs, labels = task.inputs[:8], task.labels[288:296]
    losses = [
        -float((logits + log_prior).log_softmax(-1)[label].detach())
        for logits, label in zip(method.logits(inputs)[0], labels, strict=True)
    ]
    loss = float(method.loss(index, inputs, labels, 0).detach())
    assert loss == pytest.approx(sum(losses) / 8, rel=1e-5)
    torch.testing.assert_close(method.log_probs(inputs), method.logits(inputs)[0].log_softmax(-1))
