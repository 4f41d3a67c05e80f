"""Held-out data that lack a class, hold a few samples of it, or hold one class or sample alone."""

import math
import re
import warnings

import pytest
import torch
from torch.nn import functional as F

from reliability_balance import ReliabilityBalancer
from reliability_balance.calibration import (
    Abstention,
    BranchTemperatures,
    PredictionSets,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
    fit_with_noise,
)

CLASSES = 4


def drawn(labels, seed=0):
    """Scores that are right for about 4 in 5 samples of each class."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * F.one_hot(labels, CLASSES) + torch.randn(
        len(labels), CLASSES, generator=generator, dtype=torch.float64
    )


def agreeing(log_probs):
    """An output whose branches all say the same."""
    output = ReliabilityBalancer(8, CLASSES).eval()(torch.zeros(len(log_probs), 8))
    names = ("log_probs", "logits", "anchor_log_probs", "attentive_log_probs")
    return output._replace(**dict.fromkeys(names, log_probs))


def held_out(few=0, seed=0):
    """4,000 samples of three classes, and a few of the last one."""
    labels = torch.randint(3, (4000,), generator=torch.Generator().manual_seed(seed))
    labels = torch.cat([labels, torch.full((few,), 3)])
    return drawn(labels, seed), labels


def recall(calibration):
    labels = torch.arange(8000) % CLASSES
    right = calibration(drawn(labels, 1)).argmax(-1) == labels
    return [float(right[labels == index].float().mean()) for index in range(CLASSES)]


@pytest.mark.parametrize("few", [0, 1, 2, 4])
def test_a_class_of_too_few_samples_keeps_the_common_temperature(few):
    scores, labels = held_out(few)
    message = f"at least 5 samples of a class to fit its weight and bias; got {few} of class 3:"
    with pytest.warns(UserWarning, match=message):
        calibration = VectorScaling(CLASSES).fit(scores, labels)
    temperature = float(TemperatureScaling().fit(scores, labels).temperature)
    assert float(calibration.weight[3]) == pytest.approx(1 / temperature, rel=1e-6)
    assert float(calibration.bias[3]) == 0.0
    assert min(recall(calibration)) > 0.78


@pytest.mark.parametrize(("few", "missing"), [(0, [3]), (5, []), (200, [])])
def test_the_fit_is_where_conditional_likelihood_and_prior_balance(few, missing):
    """The gradient of a sum over samples and classes, written as loops."""
    scores, labels = held_out(few)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibration = VectorScaling(CLASSES).fit(scores, labels)
    temperature = float(TemperatureScaling().fit(scores, labels).temperature)
    fitted = [index for index in range(CLASSES) if index not in missing]
    found = torch.stack([calibration.weight, calibration.bias]).double().requires_grad_()
    values = scores[:, fitted] * found[0, fitted] + found[1, fitted]
    places = torch.tensor([fitted.index(int(label)) for label in labels])
    loss = F.cross_entropy(values, places, reduction="sum")
    right = int((scores.argmax(-1) == labels).sum())
    for index in fitted:
        count = int((labels == index).sum())
        width = 1 + min(count, len(labels) - count, right, len(labels) - right)
        loss = loss + ((found[0, index] * temperature - 1) / width).square() / 2
        loss = loss + (found[1, index] / width).square() / 2
    loss.backward()
    assert found.grad[:, missing].eq(0).all()
    assert float(found.grad.abs().max()) < 0.1  # of thousands of samples


def test_the_others_are_calibrated_as_if_the_missing_class_did_not_exist():
    scores, labels = held_out()
    scores = scores * torch.tensor([0.5, 1.0, 2.0, 1.0])
    with pytest.warns(UserWarning, match="got 0 of class 3"):
        calibration = VectorScaling(CLASSES).fit(scores, labels)
    three = VectorScaling(3).fit(scores[:, :3], labels)
    torch.testing.assert_close(
        calibration(scores)[:, :3].log_softmax(-1), three(scores[:, :3]), rtol=0, atol=0.02
    )


def test_soft_labels_that_lack_a_class():
    scores, labels = held_out()
    with pytest.warns(UserWarning, match="got 0 of class 3"):
        hard = VectorScaling(CLASSES).fit(scores, labels)
    soft = 0.999 * F.one_hot(labels, CLASSES).double()
    soft[:, 3] = 0.001  # 4 samples in all
    with pytest.warns(UserWarning, match="got 4 of class 3"):
        assert float(VectorScaling(CLASSES).fit(scores, soft).bias[3]) == 0.0
    assert float(hard.bias[3]) == 0.0


def test_noisy_labels_of_a_class_that_does_not_occur():
    scores, labels = held_out()
    matrix = 0.6 * torch.eye(CLASSES) + 0.1
    generator = torch.Generator().manual_seed(2)
    noisy = torch.multinomial(matrix[labels], 1, generator=generator).squeeze(1)
    assert int((noisy == 3).sum()) > 300
    with pytest.warns(UserWarning, match="of class 3: these classes keep"):
        calibration = fit_with_noise(VectorScaling(CLASSES), scores, noisy, matrix)
    assert float(calibration.bias[3]) == 0.0
    assert min(recall(calibration)) > 0.76


def test_without_noise_the_counts_are_the_labels():
    scores, labels = held_out(20)
    noisy = fit_with_noise(VectorScaling(CLASSES), scores, labels, torch.eye(CLASSES))
    clean = VectorScaling(CLASSES).fit(scores, labels)
    torch.testing.assert_close(noisy(scores), clean(scores))


ONE = "`labels` must hold several classes to calibrate all of them; got class 2 alone"


@pytest.mark.parametrize("count", [1, 2, 1000])
@pytest.mark.parametrize("make", [TemperatureScaling, TopLabelScaling, BranchTemperatures])
def test_one_class_alone_is_told(make, count):
    labels = torch.full((count,), 2)
    scores = drawn(labels).log_softmax(-1)
    given = agreeing(scores) if make is BranchTemperatures else scores
    with pytest.warns(UserWarning, match=re.escape(ONE)) as warned:
        calibration = make().fit(given, labels)
    assert len(warned) == 1
    assert bool(calibration(given).isfinite().all())
    with pytest.warns(UserWarning, match=re.escape(ONE)):
        fit_with_noise(make(), given, labels, torch.eye(CLASSES))


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_one_class_alone_says_nothing_of_weights_and_biases(count):
    labels = torch.full((count,), 2)
    with pytest.warns(UserWarning, match="keep the common temperature"):
        calibration = VectorScaling(CLASSES).fit(drawn(labels), labels)
    assert len(set(calibration.weight.tolist())) == 1
    assert calibration.bias.tolist() == [0.0] * CLASSES


@pytest.mark.parametrize("make", [TemperatureScaling, TopLabelScaling, BranchTemperatures])
def test_what_has_no_parameters_of_classes_keeps_a_missing_class(make):
    scores, labels = held_out()
    given = agreeing(scores.log_softmax(-1)) if make is BranchTemperatures else scores
    calibration = make().fit(given, labels)

    def predict(others):
        return calibration(agreeing(others.log_softmax(-1)) if given is not scores else others)

    assert min(recall(predict)) > 0.78


def test_sets_of_one_sample_hold_all_classes():
    log_probs = drawn(torch.tensor([2])).log_softmax(-1)
    with pytest.warns(UserWarning, match="needs at least 9 held-out samples; got 1"):
        sets = PredictionSets(0.9).fit(log_probs, torch.tensor([2]))
    assert bool(sets(log_probs).all())


def test_sets_are_fitted_on_whatever_classes_there_are():
    scores, labels = held_out()
    log_probs = scores.log_softmax(-1)
    surprises = sorted(-float(row[label]) for row, label in zip(log_probs, labels, strict=True))
    threshold = PredictionSets(0.9).fit(log_probs, labels).threshold
    assert float(threshold) == pytest.approx(surprises[math.ceil(4001 * 0.9) - 1])


def test_one_right_answer_promises_nothing():
    with pytest.warns(UserWarning, match="even without errors"):
        fitted = Abstention(0.4, delta=0.4).fit(torch.tensor([0.9]), torch.tensor([True]))
    assert math.isinf(float(fitted.threshold))
