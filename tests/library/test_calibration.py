"""Scalings of log-probabilities: exact, never worse, never certain, and deaf to probabilities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from reliability_balance.calibration import (
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
    fit_with_noise,
    fitting,
    top_label,
)

SCALINGS = [TemperatureScaling, lambda: VectorScaling(4), TopLabelScaling]


def sampled(count=4000, scale=1.0, seed=0):
    """Logits whose softmax is the truth, and labels drawn from it; then logits off by a factor."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=generator, dtype=torch.float64) * 1.5
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    return logits * scale, labels


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_undoes_a_known_one(scale):
    calibration = TemperatureScaling().fit(*sampled(20_000, scale))
    assert float(calibration.temperature) == pytest.approx(scale, rel=0.05)


def test_the_temperature_is_where_the_likelihood_is_flat():
    logits, labels = sampled()
    best = TemperatureScaling().fit(logits, labels)
    nll = float(F.nll_loss(best(logits), labels))
    for factor in (0.99, 1.01):
        other = F.cross_entropy(logits / (float(best.temperature) * factor), labels)
        assert nll < float(other)


def test_vector_scaling_undoes_known_scales_and_shifts():
    logits, labels = sampled(40_000)
    distorted = logits * torch.tensor([0.5, 1.0, 2.0, 1.0]) + torch.tensor([0.0, 1.0, -1.0, 0.0])
    calibrated = VectorScaling(4).fit(distorted, labels)(distorted)
    truth = logits.log_softmax(-1)
    assert float((calibrated.exp() - truth.exp()).abs().mean()) < 0.01


@pytest.mark.parametrize("make", SCALINGS)
@given(
    seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 100.0]), count=st.integers(1, 30)
)
def test_never_worse_on_the_data_it_was_fitted_on(make, seed, scale, count):
    logits, labels = sampled(count, scale, seed)
    labels = labels.roll(1)
    before = float(F.cross_entropy(logits, labels))
    after = float(F.nll_loss(make().fit(logits, labels)(logits), labels))
    assert after <= before + 1e-6 * max(1.0, before)


@given(seed=st.integers(0, 2**31), count=st.integers(1, 30))
def test_vector_scaling_is_never_worse_than_one_temperature(seed, count):
    logits, labels = sampled(count, 3.0, seed)
    single = F.nll_loss(TemperatureScaling().fit(logits, labels)(logits), labels)
    each = F.nll_loss(VectorScaling(4).fit(logits, labels)(logits), labels)
    assert float(each) <= float(single) + 1e-6


@pytest.mark.parametrize(
    ("make", "probs"),
    [
        (TemperatureScaling, [0.5, 0.5]),
        (lambda: VectorScaling(2), [0.5, 0.5]),
        (TopLabelScaling, [0.5, 0.5]),
        (TopLabelScaling, [0.6, 0.4]),
    ],
)
def test_a_fit_that_gains_nothing_forgets_an_earlier_one(make, probs):
    log_probs = torch.tensor([probs] * 20).log()
    fitted = make().fit(log_probs, torch.tensor([0, 0, 0, 1] * 5))
    labels = (torch.arange(20) >= 20 * probs[0]).long()  # just as often right as was said
    again = fitted.fit(log_probs, labels)(log_probs).exp()
    assert again[0].tolist() == pytest.approx(probs, rel=1e-4)


@pytest.mark.parametrize("make", [TemperatureScaling, lambda: VectorScaling(3), TopLabelScaling])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_answers_that_were_all_right_make_no_certainty(make, count):
    """By the rule of succession an answer that was right N times is wrong once in N + 2."""
    log_probs = torch.tensor([[0.5, 0.3, 0.2], [0.40, 0.39, 0.21]]).log()
    classes = torch.arange(count) % 3
    held_out = torch.stack([log_probs[0].roll(int(shift)) for shift in classes])
    calibrated = make().fit(held_out, classes)(log_probs).exp()
    expected = 1 / (count + 2)
    assert 0.05 * expected < float(1 - calibrated[0, 0]) < 5 * expected
    assert float(1 - calibrated[1, 0]) > 0.05 * expected


@pytest.mark.parametrize(("count", "errors"), [(1, 0), (10, 0), (10, 1), (500, 3), (4, 3), (4, 4)])
def test_the_temperature_is_where_likelihood_and_prior_balance(count, errors):
    log_probs = torch.tensor([[0.5, 0.3, 0.2]] * count, dtype=torch.float64).log()
    labels = (torch.arange(count) < errors).long()
    temperature = TemperatureScaling().fit(log_probs, labels).temperature
    log_inverse = temperature.double().reciprocal().log().requires_grad_()
    width = 1 + min(errors, count - errors)
    loss = F.cross_entropy(log_probs * log_inverse.exp(), labels, reduction="sum")
    (loss + (log_inverse / width).square() / 2).backward()
    assert float(log_inverse.grad) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("make", [TemperatureScaling, lambda: VectorScaling(3), TopLabelScaling])
def test_one_error_by_a_hair_makes_no_certainty(make):
    log_probs = torch.tensor([[0.5, 0.3, 0.2]] * 9 + [[0.3999, 0.4, 0.2001]]).log()
    calibrated = make().fit(log_probs, torch.zeros(10).long())(log_probs).exp()
    assert float(calibrated.amax()) < 0.9999


@pytest.mark.parametrize("make", SCALINGS)
def test_errors_that_the_scores_tell_apart_do_not_ruin_new_answers(make):
    """A few samples, which weights and biases for each class can separate."""
    logits, labels = sampled(8, seed=1)
    others, truth = sampled(2000, seed=2)
    assert int((logits.argmax(-1) != labels).sum()) == 2
    assert float(F.nll_loss(make().fit(logits, labels)(others), truth)) < 2.5


@pytest.mark.parametrize("make", SCALINGS)
def test_a_set_of_thousands_is_fitted_as_without_the_prior(make, monkeypatch):
    logits, labels = sampled(2000, 2.5)
    fitted = make().fit(logits, labels)(logits).exp()
    for module in (fitting, top_label):
        monkeypatch.setattr(module, "prior_weight", lambda scores, targets: 0.0)
    moved = (fitted - make().fit(logits, labels)(logits).exp()).abs()
    assert float(moved.mean()) < 1e-5
    assert float(moved.amax()) < 1e-3


@pytest.mark.parametrize("make", SCALINGS)
def test_the_answer_is_a_distribution_whatever_the_dtype(make):
    logits, labels = sampled(200, 3.0)
    calibration = make().fit(logits, labels)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        log_probs = calibration(logits.to(dtype))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert log_probs.dtype == wide
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(200, dtype=wide))


def test_the_temperature_keeps_every_answer():
    logits, labels = sampled(500, 4.0)
    calibration = TemperatureScaling().fit(logits, labels)
    assert torch.equal(calibration(logits).argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("make", SCALINGS)
def test_soft_one_hot_labels_equal_index_labels(make):
    logits, labels = sampled(300, 2.0)
    soft = F.one_hot(labels, 4).double()
    torch.testing.assert_close(
        make().fit(logits, labels)(logits), make().fit(logits, soft)(logits), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("make", SCALINGS)
def test_the_state_dict_restores_it(make):
    logits, labels = sampled(300, 2.0)
    fitted, fresh = make().fit(logits, labels), make()
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(logits), fitted(logits))


@pytest.mark.parametrize("make", SCALINGS)
def test_unfitted_it_changes_nothing(make):
    logits, _ = sampled(10)
    torch.testing.assert_close(make()(logits), logits.log_softmax(-1))


@pytest.mark.parametrize("make", SCALINGS)
def test_a_perfect_model_stays_finite(make):
    logits = torch.eye(4) * 5
    calibrated = make().fit(logits, torch.arange(4))(logits)
    assert bool(torch.isfinite(calibrated).all())


@pytest.mark.parametrize("make", SCALINGS)
@pytest.mark.parametrize(
    ("log_probs", "labels", "error", "message"),
    [
        (
            torch.full((2, 4), 0.25),
            torch.tensor([0, 1]),
            ValueError,
            "`log_probs` must be logits or log-probabilities; got rows that .* are probabilities",
        ),
        (torch.zeros(0, 4), torch.zeros(0).long(), ValueError, "at least 1 sample; got 0"),
        (torch.zeros(4), torch.tensor([0]), ValueError, r"must have shape \(N, C\); got \(4,\)"),
        (torch.full((1, 4), torch.nan), torch.tensor([0]), ValueError, "must be finite"),
        (torch.zeros(1, 4), torch.tensor([4]), ValueError, r"`labels` must lie in \[0, 4\)"),
        (torch.zeros(1, 4).long(), torch.tensor([0]), TypeError, "must have a floating dtype"),
    ],
)
def test_errors(make, log_probs, labels, error, message):
    with pytest.raises(error, match=message):
        make().fit(log_probs, labels)


def test_vector_scaling_of_another_width():
    with pytest.raises(ValueError, match=r"last dimension 5; got \(1, 4\)"):
        VectorScaling(5).fit(torch.zeros(1, 4), torch.tensor([0]))


@pytest.mark.parametrize("make", [TemperatureScaling, TopLabelScaling])
def test_a_known_noise_matrix_gives_back_what_clean_labels_would_have(make):
    logits, labels = sampled(30_000, 2.5)
    generator = torch.Generator().manual_seed(1)
    moved = torch.rand(len(labels), generator=generator) < 0.3
    noise_matrix = 0.7 * torch.eye(4) + 0.3 * torch.eye(4).roll(1, 1)
    cleaned = fit_with_noise(make(), logits, (labels + moved) % 4, noise_matrix.double())
    truth = make().fit(logits, labels)(logits).exp()
    assert float((cleaned(logits).exp() - truth).abs().mean()) < 0.01
    bent = make().fit(logits, (labels + moved) % 4)
    assert float((bent(logits).exp() - truth).abs().mean()) > 0.05


def test_top_label_scaling_undoes_a_known_curve():
    """Predictions that an even mixture has flattened, which no temperature undoes."""
    logits, labels = sampled(40_000)
    truth = logits.softmax(-1)
    flattened = (0.7 * truth + 0.3 / 4).log()
    calibration = TopLabelScaling().fit(flattened, labels)
    top = truth.amax(-1)
    error = (calibration(flattened).exp().amax(-1) - top).abs().mean()
    by_temperature = TemperatureScaling().fit(flattened, labels)(flattened).exp().amax(-1)
    assert float(error) < 0.5 * float((by_temperature - top).abs().mean())


def test_top_label_scaling_leaves_the_others_their_proportions():
    logits, labels = sampled(500)
    before, after = logits.softmax(-1), TopLabelScaling().fit(logits * 3, labels)(logits).exp()
    top = before.argmax(-1, keepdim=True)
    shares = [
        probs.scatter(-1, top, 0.0) / (1 - probs.gather(-1, top)) for probs in (before, after)
    ]
    torch.testing.assert_close(*shares)


def test_top_label_scaling_of_a_certain_prediction_is_a_distribution():
    log_probs = torch.tensor([[1.0, 0.0, 0.0]]).log()
    calibrated = TopLabelScaling()(log_probs)
    torch.testing.assert_close(calibrated.exp(), torch.tensor([[1.0, 0.0, 0.0]]))
