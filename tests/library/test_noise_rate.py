"""Bounds of the noise rate: coverage in simulations with known truth, and exact cases."""

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from reliability_balance import ReliabilityBalancer, RobustLoss, fit_head
from reliability_balance.data import symmetric_noise
from reliability_balance.labels import RefurbishedTargets, estimate_noise, noise_rate_bounds
from reliability_balance.labels.noise_matrix import true_frequencies, with_rate


def simulated(rate, *, count=400, sharpness=2.0, seed=0):
    """Confidence of a model that is right with another probability, and agreement with labels."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2.0 + 2.0 * torch.randn(count, generator=generator)
    right = torch.rand(count, generator=generator) < (sharpness * scores).sigmoid()
    wrong = torch.rand(count, generator=generator) < rate
    # A wrong label is never the predicted class here, unless the prediction is wrong, too.
    chance = torch.rand(count, generator=generator) < 0.1
    return scores.sigmoid(), (right & ~wrong | ~right & wrong & chance).float()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_the_interval_covers_noise_that_does_not_depend_on_the_input(rate, sharpness):
    bounds = [
        noise_rate_bounds(*simulated(rate, sharpness=sharpness, seed=seed)) for seed in range(8)
    ]
    covered = sum(float(each.low) <= rate <= float(each.high) for each in bounds)
    assert covered >= 7
    mean = sum(float(each.value) for each in bounds) / 8
    # Too high where even the surest predictions err.
    assert -0.06 < mean - rate < (0.06 if sharpness > 1.0 else 0.1)


def test_noise_of_hard_samples_is_covered_from_above():
    """Labels are wrong where the model is undecided: like its own errors."""
    confidence, agreement = simulated(0.0, count=1000)
    agreement = agreement * (confidence > confidence.quantile(0.2))
    bounds = noise_rate_bounds(confidence, agreement)
    assert float(bounds.low) < 0.03
    assert float(bounds.high) > 0.2


def test_the_upper_limit_is_exact_for_certain_predictions():
    confidence, agreement = torch.ones(200), torch.ones(200)
    agreement[:30] = 0.0
    expected = stats.beta.ppf(0.975, 31, 170)
    assert float(noise_rate_bounds(confidence, agreement).high) == pytest.approx(expected, abs=1e-6)
    half = noise_rate_bounds(confidence, agreement, level=0.5)
    assert float(half.high) == pytest.approx(stats.beta.ppf(0.75, 31, 170), abs=1e-6)


def test_doubted_agreements_count_as_often_as_labels_disagree():
    confidence, agreement = torch.full((200,), 0.5), torch.ones(200)
    agreement[:40] = 0.0
    # 40 disagreements, and 40 * (0.5 * 160 / 200) of the doubts.
    expected = stats.beta.ppf(0.975, 57, 200 - 56)
    assert float(noise_rate_bounds(confidence, agreement).high) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("agreement", [torch.zeros(1), torch.ones(1), torch.zeros(50)])
def test_extremes_give_ordered_limits(agreement):
    for confidence in (0.0, 0.3, 1.0):
        bounds = noise_rate_bounds(torch.full_like(agreement, confidence), agreement)
        assert 0.0 <= float(bounds.low) <= float(bounds.value) <= float(bounds.high) <= 1.0


def test_a_wider_level_gives_a_wider_interval():
    inputs = simulated(0.2)
    narrow, wide = (noise_rate_bounds(*inputs, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("confidence", "agreement", "message"),
    [
        (torch.rand(3), torch.rand(4), "one entry for each of at least 1 sample; got 3 and 4"),
        (torch.rand(0), torch.rand(0), "got 0 and 0"),
        (torch.full((2,), 1.5), torch.rand(2), r"`confidence` must lie in \[0, 1\]"),
        (torch.rand(2), torch.full((2,), torch.nan), r"`agreement` must lie in \[0, 1\]"),
        (torch.rand(2, 2), torch.rand(2), "`confidence`"),
    ],
)
def test_errors(confidence, agreement, message):
    with pytest.raises(ValueError, match=message):
        noise_rate_bounds(confidence, agreement)
    with pytest.raises(ValueError, match="`level`"):
        noise_rate_bounds(torch.rand(2), torch.rand(2), level=1.0)
    with pytest.raises(TypeError, match="`agreement`"):
        noise_rate_bounds(torch.rand(2), torch.ones(2, dtype=torch.int64))


def test_held_back_labels_are_compared_with_predictions_before_their_release():
    """By hand: the class and confidence of the mean prediction while the label is held back."""
    generator = torch.Generator().manual_seed(0)
    targets = RefurbishedTargets(200, 3, warmup=4, held_back=0.3, held_for=2)
    labels = torch.randint(3, (200,), generator=generator)
    probs = torch.randn(5, 200, 3, generator=generator).softmax(-1)
    for epoch in range(5):
        if epoch == 2:
            targets.judge_memory()
        for index in torch.randperm(200, generator=generator).split(50):
            targets(index, labels[index], probs[epoch, index])
    control = targets.memorization.control
    expected, classes = probs[:2].mean(0).max(-1)
    kept = targets.out_of_sample
    assert torch.equal(kept.classes >= 0, control)
    assert torch.equal(kept.classes[control].long(), classes[control])
    torch.testing.assert_close(kept.confidence[control], expected[control])
    rate = estimate_noise(targets, labels, num_resamples=2).rate
    agreement = (classes == labels)[control].float()
    assert rate == noise_rate_bounds(kept.confidence[control], agreement)


def test_without_held_back_labels_nothing_is_known():
    targets = RefurbishedTargets(20, 2, warmup=0)
    probs = torch.tensor([[0.99, 0.01], [0.02, 0.98]]).repeat(10, 1)
    for _ in range(3):
        targets(torch.arange(20), probs.argmax(-1), probs)
    rate = estimate_noise(targets, probs.argmax(-1), num_resamples=2).rate
    assert (float(rate.low), float(rate.high)) == (0.0, 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_training_covers_the_rate(rate):
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(4, (2000,), generator=generator)
    points = 3.0 * F.one_hot(truth, 16) + torch.randn(2000, 16, generator=generator)
    labels = symmetric_noise(truth, rate, 4, seed=1)
    torch.manual_seed(0)
    model = ReliabilityBalancer(16, 4)
    criterion = RobustLoss(model, labels, epochs=6)
    fit_head(model, points, labels, criterion=criterion, epochs=6, learning_rate=1e-2)
    found = criterion.noise_rate()
    assert float(found.low) <= rate <= float(found.high)
    assert float(found.value) == pytest.approx(rate, abs=0.1)
    if rate:
        assert float(found.low) > 0.05


def test_true_frequencies_by_the_inverse():
    matrix = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]]).double()
    shares = torch.tensor([0.5, 0.3, 0.2]).double()
    counts = (10_000 * shares @ matrix).round().long()
    labels = torch.arange(3).repeat_interleave(counts)
    torch.testing.assert_close(true_frequencies(labels, matrix), shares, atol=1e-3, rtol=0)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2, 0.5])
def test_a_noise_matrix_with_another_rate(rate):
    matrix = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])
    shares = torch.tensor([0.5, 0.3, 0.2])
    found = with_rate(matrix, rate, shares)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    assert float(found.min()) >= 0.0
    assert float(shares @ (1.0 - found.diagonal())) == pytest.approx(rate, abs=1e-6)
