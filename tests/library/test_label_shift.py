"""Class frequencies of unlabelled data: held against a loop, BBSE and the truth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance import ReliabilityBalancer, with_class_prior
from reliability_balance.calibration import (
    TemperatureScaling,
    estimate_class_prior,
    label_shift,
)

EVEN = torch.ones(4) / 4
SHIFTED = torch.tensor([0.7, 0.15, 0.1, 0.05])
MEANS = 1.2 * torch.eye(4)


def draw(count, frequencies, seed):
    """Points about each class's mean."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(frequencies, count, replacement=True, generator=generator)
    return MEANS[labels] + torch.randn(count, 4, generator=generator), labels


def predict(points, prior=EVEN):
    """The exact posterior, so calibrated."""
    return (-0.5 * torch.cdist(points, MEANS).square() + prior.log()).log_softmax(-1)


def bbse(held, held_labels, log_probs):
    """Lipton et al., ICML 2018, with soft predictions: solve the mean predictions of each class."""
    of_class = torch.stack([held[held_labels == c].exp().mean(0) for c in range(4)], 1)
    return torch.linalg.solve(of_class.double(), log_probs.exp().mean(0).double()).float()


@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=8), st.booleans())
def test_it_maximises_the_likelihood_as_a_plain_loop_does(counts, is_uneven):
    source = [0.5, 0.3, 0.2] if is_uneven else [1 / 3] * 3
    rows = [[count / sum(row) for count in row] for row in counts]

    def log_likelihood(prior):
        mixed = [sum(q * p / s for q, p, s in zip(prior, row, source, strict=True)) for row in rows]
        return sum(map(math.log, mixed))

    prior = source
    for _ in range(2000):
        sums = [0.0] * 3
        for row in rows:
            joint = [q * p / s for q, p, s in zip(prior, row, source, strict=True)]
            sums = [total + each / sum(joint) for total, each in zip(sums, joint, strict=True)]
        prior = [total / len(rows) for total in sums]
    found = estimate_class_prior(
        torch.tensor(rows).double().log(), source_prior=torch.tensor(source)
    )
    assert float(found.sum()) == pytest.approx(1)
    # It gives each class half a sample at least.
    floored = [max(each, 0.5 / len(rows)) for each in prior]
    floored = [each / sum(floored) for each in floored]
    assert log_likelihood(found.tolist()) > log_likelihood(floored) - 0.05


@pytest.mark.parametrize("source", [EVEN, torch.tensor([0.1, 0.2, 0.3, 0.4])])
def test_it_finds_the_frequencies_and_bbse_agrees(source):
    points, _ = draw(20_000, SHIFTED, seed=0)
    log_probs = predict(points, source)
    found = estimate_class_prior(log_probs, source_prior=1000 * source)
    torch.testing.assert_close(found, SHIFTED, rtol=0, atol=0.015)
    held, labels = draw(20_000, source, seed=1)
    frequencies = bbse(predict(held, source), labels, log_probs)
    torch.testing.assert_close(found, frequencies, rtol=0, atol=0.03)


def test_predictions_gain_what_the_true_frequencies_gain():
    points, labels = draw(5000, SHIFTED, seed=0)
    log_probs = predict(points)
    found = estimate_class_prior(log_probs)

    def accuracy(prior):
        return float(((log_probs + prior.log()).argmax(-1) == labels).float().mean())

    assert accuracy(SHIFTED) > accuracy(EVEN) + 0.05
    assert accuracy(found) == pytest.approx(accuracy(SHIFTED), abs=0.005)


@pytest.mark.parametrize("factor", [0.4, 4.0], ids=["underconfident", "overconfident"])
def test_miscalibration_costs_and_calibration_pays(factor):
    points, _ = draw(5000, SHIFTED, seed=0)
    held, labels = draw(5000, EVEN, seed=1)
    wrong, wrong_held = ((factor * predict(each)).log_softmax(-1) for each in (points, held))
    calibrate = TemperatureScaling().fit(wrong_held, labels)

    def error(log_probs):
        return float((estimate_class_prior(log_probs) - SHIFTED).abs().sum())

    assert error(wrong) > 0.08
    assert error(calibrate(wrong)) < 0.04


def test_predictions_that_say_nothing_leave_the_frequencies_as_they_were():
    source = torch.tensor([0.5, 0.3, 0.2])
    found = estimate_class_prior(source.log().expand(100, 3), source_prior=source)
    torch.testing.assert_close(found, source)


def test_an_absent_class_keeps_half_a_sample():
    log_probs = torch.tensor([[0.98, 0.01, 0.01]]).log().expand(50, 3)
    found = estimate_class_prior(log_probs)
    assert found.tolist() == pytest.approx([50 / 51, 0.5 / 51, 0.5 / 51], rel=1e-5)
    output = ReliabilityBalancer(4, 3).eval()(torch.randn(2, 4))
    assert bool(with_class_prior(output, found).corrected.isfinite().all())


def test_sure_predictions_are_counted():
    log_probs = (1e4 * torch.eye(3)[[0, 0, 0, 1]]).log_softmax(-1)  # probabilities underflow
    found = estimate_class_prior(log_probs)
    assert found.tolist() == pytest.approx([6 / 9, 2 / 9, 1 / 9])


def test_too_few_steps_are_told(monkeypatch):
    monkeypatch.setattr(label_shift, "MAX_STEPS", 2)
    points, _ = draw(500, SHIFTED, seed=0)
    with pytest.warns(UserWarning, match="did not converge in 2 steps") as caught:
        estimate_class_prior(predict(points))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: estimate_class_prior(p.exp()), ValueError, "`log_probs` exponentiated must"),
        (lambda p: estimate_class_prior(p[:0]), ValueError, "at least 1 sample; got 0"),
        (lambda p: estimate_class_prior(p[0]), ValueError, r"must have shape \(N, C\)"),
        (
            lambda p: estimate_class_prior(p, source_prior=torch.ones(3)),
            ValueError,
            r"`source_prior` must have shape \(C,\) = \(4,\)",
        ),
        (
            lambda p: estimate_class_prior(p, source_prior=torch.arange(4)),
            ValueError,
            "`source_prior` must be finite and above 0",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(predict(draw(20, EVEN, seed=0)[0]))
