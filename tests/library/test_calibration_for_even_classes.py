"""Answers for evenly frequent classes, calibrated on held-out data with other frequencies."""

import pytest
import torch
from torch.nn import functional as F

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, fit_head
from reliability_balance.calibration import (
    BranchTemperatures,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
    fit_with_noise,
)
from reliability_balance.core import BalancerOutput

MEANS = 2.0 * torch.eye(3)
FREQUENCIES = torch.tensor([0.8, 0.15, 0.05])
EVEN = torch.ones(3) / 3
NAMES = ("log_probs", "logits", "anchor_log_probs", "attentive_log_probs")


def drawn(count, frequencies, seed):
    """True log-probabilities for even classes, but too sure the rarer the class that is likeliest.

    The labels are drawn with the frequencies, and of each class come points about its mean.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(frequencies, count, True, generator=generator)
    points = MEANS[labels] + torch.randn(count, 3, generator=generator)
    scores = -torch.cdist(points, MEANS).square() / 2
    scores = scores - scores.mean(-1, keepdim=True)
    factors = torch.tensor([1.0, 1.5, 4.0])[scores.argmax(-1)]
    return (scores * factors.unsqueeze(-1)).log_softmax(-1), labels


TEST, TEST_LABELS = drawn(10_000, EVEN, 1)
HELD_OUT, LABELS = drawn(4000, FREQUENCIES, 2)
EVEN_HELD_OUT, EVEN_LABELS = drawn(4000, EVEN, 3)
MAKERS = [TemperatureScaling, lambda: VectorScaling(3), TopLabelScaling, BranchTemperatures]


def as_taken(calibration, log_probs):
    """What the calibration takes: of the branches all say the same, but one half as surely."""
    if not isinstance(calibration, BranchTemperatures):
        return log_probs
    output = ReliabilityBalancer(3, 3, attention="tokens").eval()(torch.zeros(len(log_probs), 3))
    output = output._replace(**dict.fromkeys(NAMES, log_probs))
    output = output._replace(anchor_log_probs=(log_probs / 2).log_softmax(-1))
    return output._replace(log_probs=calibration._fuse(output, torch.ones(4)))


def loss(calibration):
    return float(F.nll_loss(calibration(as_taken(calibration, TEST)), TEST_LABELS))


def fitted(make, log_probs, labels, **options):
    calibration = make()
    return calibration.fit(as_taken(calibration, log_probs), labels, **options)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("counts", [True, False])
def test_importance_weights_give_nearly_what_even_data_would(make, counts):
    prior = LABELS.bincount() if counts else FREQUENCIES.double()
    weighed = loss(fitted(make, HELD_OUT, LABELS, class_prior=prior))
    assert weighed < loss(fitted(make, EVEN_HELD_OUT, EVEN_LABELS)) + 0.01
    assert weighed < loss(make()) - 0.03


@pytest.mark.parametrize("make", [lambda: VectorScaling(3), TopLabelScaling])
def test_without_them_the_fit_is_for_the_held_out_frequencies(make):
    plain = loss(fitted(make, HELD_OUT, LABELS))
    assert plain > loss(fitted(make, HELD_OUT, LABELS, class_prior=FREQUENCIES)) + 0.02


@pytest.mark.parametrize("make", [TemperatureScaling, TopLabelScaling])
def test_turning_the_answers_to_the_held_out_frequencies_first_fits_the_frequent_classes(make):
    log_prior = FREQUENCIES.log()
    calibration = make().fit((HELD_OUT + log_prior).log_softmax(-1), LABELS)
    calibrated = calibration((TEST + log_prior).log_softmax(-1)) - log_prior
    first = float(F.cross_entropy(calibrated, TEST_LABELS))
    assert first > loss(fitted(make, HELD_OUT, LABELS, class_prior=FREQUENCIES)) + 0.05


@pytest.mark.parametrize("make", MAKERS)
def test_a_weight_is_worth_as_many_copies(make):
    """Each class's samples repeated until all are as many; only the weak prior differs."""
    log_probs, labels = HELD_OUT[:3000], LABELS[:3000]
    counts = torch.tensor([4, 2, 1])
    copies = torch.repeat_interleave(torch.arange(3000), (4 // counts)[labels])
    repeated = fitted(make, log_probs[copies], labels[copies])
    weighed = fitted(make, log_probs, labels, class_prior=counts)
    torch.testing.assert_close(
        weighed(as_taken(weighed, TEST)).exp(),
        repeated(as_taken(repeated, TEST)).exp(),
        rtol=0,
        atol=2e-3,
    )


@pytest.mark.parametrize("make", MAKERS)
def test_even_frequencies_change_nothing(make):
    plain, even = fitted(make, HELD_OUT, LABELS), fitted(make, HELD_OUT, LABELS, class_prior=EVEN)
    torch.testing.assert_close(
        even(as_taken(even, TEST)), plain(as_taken(plain, TEST)), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("make", MAKERS)
def test_with_noisy_labels_too(make):
    matrix = 0.7 * torch.eye(3) + 0.1
    generator = torch.Generator().manual_seed(4)
    noisy = torch.multinomial(matrix[LABELS], 1, generator=generator).squeeze(1)
    calibration = make()
    given = as_taken(calibration, HELD_OUT)
    fit_with_noise(calibration, given, noisy, matrix, class_prior=FREQUENCIES)
    clean = loss(fitted(make, HELD_OUT, LABELS, class_prior=FREQUENCIES))
    assert loss(calibration) < clean + 0.05
    assert loss(calibration) < loss(fitted(make, HELD_OUT, noisy, class_prior=FREQUENCIES)) - 0.02


@pytest.mark.parametrize("make", MAKERS[:3])
def test_a_second_fit_with_noise_forgets_the_first(make):
    matrix = 0.7 * torch.eye(3) + 0.1
    generator = torch.Generator().manual_seed(4)
    noisy = torch.multinomial(matrix[LABELS[:1500]], 1, generator=generator).squeeze(1)
    again = make().fit(HELD_OUT / 50, LABELS)  # far from what follows
    fit_with_noise(again, HELD_OUT[:1500], noisy, matrix)
    fresh = fit_with_noise(make(), HELD_OUT[:1500], noisy, matrix)
    for one, other in zip(again.buffers(), fresh.buffers(), strict=True):
        assert torch.equal(one, other)


def test_noisy_labels_of_a_balancers_output():
    """The recommended calibration gives nearly what clean labels would have."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (2500,), generator=generator)
    features = torch.randn(2500, 16, generator=generator) + 1.5 * F.one_hot(labels, 16)
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(16, 4, num_anchors=2, attention="tokens")
    criterion = ReliabilityLoss()
    fit_head(balancer, features[:1000], labels[:1000], criterion=criterion, epochs=3, batch_size=64)
    with torch.no_grad():
        output = balancer(features[1000:])
    assert isinstance(output, BalancerOutput)
    truth = labels[1000:]
    matrix = 0.6 * torch.eye(4) + 0.4 * torch.eye(4).roll(1, 1)
    moved = torch.rand(len(truth), generator=generator) < 0.4
    noisy = (truth + moved) % 4
    clean = BranchTemperatures().fit(output, truth)(output).exp()
    cleaned = fit_with_noise(BranchTemperatures(), output, noisy, matrix)(output)
    assert float((cleaned.exp() - clean).abs().mean()) < 0.02
    bent = BranchTemperatures().fit(output, noisy)(output).exp()
    assert float((bent - clean).abs().mean()) > 0.05
    curve = fit_with_noise(TopLabelScaling(), cleaned, noisy, matrix)(cleaned).exp()
    expected = TopLabelScaling().fit(cleaned, truth)(cleaned).exp()
    assert float((curve - expected).abs().mean()) < 0.02


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        (torch.tensor([3, 0, 1]), ValueError, r"`class_prior` must be finite and above 0; got \[3"),
        (torch.ones(2), ValueError, r"`class_prior` must have shape \(C,\) = \(3,\); got \(2,\)"),
        ([1, 1, 1], TypeError, "`class_prior` must be a torch.Tensor; got list"),
    ],
)
def test_bad_priors(make, prior, error, message):
    with pytest.raises(error, match=message):
        fitted(make, HELD_OUT, LABELS, class_prior=prior)
    calibration = make()
    with pytest.raises(error, match=message):
        fit_with_noise(
            calibration, as_taken(calibration, HELD_OUT), LABELS, torch.eye(3), class_prior=prior
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fit_with_noise(TemperatureScaling(), HELD_OUT, LABELS, torch.ones(3, 3)),
            ValueError,
            "rows of `noise_matrix` must be non-negative and sum to 1; got .* sums from 3 to 3",
        ),
        (
            lambda: fit_with_noise(TemperatureScaling(), HELD_OUT, LABELS, torch.eye(4)),
            ValueError,
            r"`noise_matrix` must have shape \(3, 3\); got \(4, 4\)",
        ),
        (
            lambda: fit_with_noise(BranchTemperatures(), HELD_OUT, LABELS, torch.eye(3)),
            TypeError,
            "`output` must be a BalancerOutput, as .*; got Tensor",
        ),
        (
            lambda: fit_with_noise(
                TemperatureScaling(),
                as_taken(BranchTemperatures(), HELD_OUT),
                LABELS,
                torch.eye(3),
            ),
            TypeError,
            "`log_probs` must be a torch.Tensor; got BalancerOutput",
        ),
        (
            lambda: fit_with_noise(
                VectorScaling(3), as_taken(BranchTemperatures(), HELD_OUT), LABELS, torch.eye(3)
            ),
            TypeError,
            "`log_probs` must be a torch.Tensor; got BalancerOutput",
        ),
    ],
)
def test_errors_with_noise(call, error, message):
    with pytest.raises(error, match=message):
        call()
