"""`calibrate`: one call for clean and noisy labels, any class frequencies, and saving."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reliability_balance import (
    ReliabilityBalancer,
    ReliabilityLoss,
    RobustLoss,
    calibrate,
    fit_head,
    load,
    save,
    with_class_prior,
    wrap,
)
from reliability_balance.calibration import (
    BranchTemperatures,
    Calibrator,
    TemperatureScaling,
    TopLabelScaling,
    assumes_even_classes,
)
from reliability_balance.data import symmetric_noise
from reliability_balance.diagnosis import diagnose
from reliability_balance.diagnosis.symptoms import expected_calibration_error
from reliability_balance.labels import estimate_noise

CLASSES = 4


class Overconfident(nn.Module):
    """Gives three times the true logits, which are its inputs."""

    def forward(self, logits):
        return 3.0 * logits


def samples(count=1500, seed=0, shares=None):
    """True logits (N, C) of a Bayes classifier, and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(count, CLASSES, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    if shares is not None:
        kept = torch.rand(count, generator=generator) < shares[labels]
        logits, labels = logits[kept], labels[kept]
    return logits, labels


def error(model, seed=9):
    logits, labels = samples(seed=seed)
    with torch.no_grad():
        return expected_calibration_error(model(logits).probs, labels)


def trained(rate=0.0, seed=0):
    """A balancer trained with RobustLoss on noisy labels, its criterion, and a sample drawer."""

    def draw(count, seed):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(CLASSES, (count,), generator=generator)
        return 3.0 * F.one_hot(truth, 8) + torch.randn(count, 8, generator=generator), truth

    points, truth = draw(2000, seed)
    labels = symmetric_noise(truth, rate, CLASSES, seed=seed)
    torch.manual_seed(seed)
    model = ReliabilityBalancer(8, CLASSES)
    criterion = RobustLoss(model, labels, epochs=6)
    fit_head(model, points, labels, criterion=criterion, epochs=6, learning_rate=1e-2)
    return model, criterion, draw


def test_logits_on_clean_labels():
    calibrated = calibrate(Overconfident(), [samples()])
    assert error(calibrated) < 0.04
    logits, labels = samples()
    first = TemperatureScaling().fit(3.0 * logits, labels)
    curve = TopLabelScaling().fit(first(3.0 * logits), labels)
    torch.testing.assert_close(calibrated(logits).log_probs, curve(first(3.0 * logits)))
    assert torch.equal(calibrated(logits).output, 3.0 * logits)


def test_branches_on_clean_labels():
    model, _, draw = trained()
    points, truth = draw(500, 5)
    calibrated = calibrate(model, [(points[:300], truth[:300]), (points[300:], truth[300:])])
    prior = truth.bincount().double()
    with torch.no_grad():
        output = model.eval()(points)
        even = not torch.allclose(model.class_prior, model.class_prior.mean())
        weights = prior if even else None
        first = BranchTemperatures().fit(output, truth, class_prior=weights)
        curve = TopLabelScaling().fit(first(output), truth, class_prior=weights)
        torch.testing.assert_close(
            calibrated(points).log_probs, curve(first(output)), atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("counts", [(800, 800), (801, 799)])
def test_even_or_nearly_even_training_then_uneven_held_out_data(counts):
    """After even training predictions are for even classes, whatever the held-out frequencies."""

    def draw(*counts, seed):
        labels = torch.arange(2).repeat_interleave(torch.tensor(counts))
        noise = torch.randn(len(labels), 1, generator=torch.Generator().manual_seed(seed))
        return noise + 2.0 * labels[:, None] - 1.0, labels

    points, labels = draw(*counts, seed=0)
    torch.manual_seed(0)
    model = ReliabilityBalancer(1, 2, head="mlp", metric="euclidean")
    criterion = RobustLoss(model, labels, epochs=6)
    fit_head(model, points, labels, criterion=criterion, epochs=6, learning_rate=1e-2)
    prior = torch.tensor([0.9, 0.1])
    calibrated = calibrate(model, [draw(1800, 200, seed=1)], prior=prior)
    points, _ = draw(1800, 200, seed=2)
    with torch.no_grad():
        assert float(calibrated(points).probs[:, 1].mean()) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_noisy_labels_with_a_known_matrix(rate):
    logits, truth = samples()
    matrix = torch.full((CLASSES, CLASSES), rate / (CLASSES - 1)).fill_diagonal_(1.0 - rate)
    labels = symmetric_noise(truth, rate, CLASSES, seed=0)
    calibrated = calibrate(Overconfident(), [(logits, labels)], noise=matrix)
    assert error(calibrated) < 0.05
    if rate:
        assert error(calibrate(Overconfident(), [(logits, labels)])) > 0.1


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["criterion", "estimate"])
def test_noisy_labels_with_what_training_learned(rate, kind):
    model, criterion, draw = trained(rate)
    points, truth = draw(800, 5)
    labels = symmetric_noise(truth, rate, CLASSES, seed=7)
    test_points, test_truth = draw(4000, 6)

    def ece(calibrated):
        with torch.no_grad():
            return expected_calibration_error(calibrated(test_points).probs, test_truth)

    noise = criterion
    if kind == "estimate":
        noise = estimate_noise(criterion.targets, criterion.labels, num_resamples=2)
    noisy = calibrate(model, [(points, labels)], noise=noise)
    assert ece(noisy) < ece(calibrate(model, [(points, truth)])) + 0.03
    assert isinstance(noisy.calibrator.scaling, TemperatureScaling)


def test_the_frequencies_of_the_deployment():
    """A Bayes classifier for uneven classes, fitted on such data and used on even ones."""
    shares = torch.tensor([1.0, 0.6, 0.3, 0.1])
    logits, labels = samples(8000, shares=shares)
    held = [(logits + shares.log(), labels)]
    plain, even = (calibrate(Overconfident(), held, prior=each) for each in (None, torch.ones(4)))
    logits, labels = samples(seed=9)
    with torch.no_grad():
        errors = [
            expected_calibration_error(each(logits + shares.log()).probs, labels)
            for each in (plain, even)
        ]
    assert errors[1] < 0.05 < errors[0]


def test_even_classes_are_shifted_by_the_prior_alone():
    model, _, draw = trained()
    with torch.no_grad():
        model.class_prior.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    points, truth = draw(500, 5)
    prior = torch.tensor([7.0, 1.0, 1.0, 1.0])
    even = calibrate(model, [(points, truth)])
    uneven = calibrate(model, [(points, truth)], prior=prior)
    with torch.no_grad():
        expected = (even(points).log_probs + prior.log()).log_softmax(-1)
        torch.testing.assert_close(uneven(points).log_probs, expected)


def test_the_mode_and_batches_of_mappings():
    model = wrap(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES))).train()
    points, labels = torch.randn(100, 8), torch.arange(100) % CLASSES
    calibrated = calibrate(model, [({"input": points}, labels, torch.arange(100))])
    assert model.training
    assert calibrated.eval()(points).probs.sum(-1).allclose(torch.ones(100))


def test_saved_with_the_model(tmp_path):
    model, _, draw = trained()
    points, truth = draw(300, 5)
    calibrated = calibrate(
        model, [(points, truth)], prior=torch.tensor([4.0, 3.0, 2.0, 1.0])
    ).eval()
    path = tmp_path / "model.safetensors"
    save(path, calibrated.model, extras={"calibrator": calibrated.calibrator})
    found = load(path)
    assert isinstance(found.extras["calibrator"], Calibrator)
    with torch.no_grad():
        again = found.extras["calibrator"](found.model(points))
        torch.testing.assert_close(again, calibrated(points).log_probs)


def test_what_cannot_be_calibrated_is_refused():
    logits, labels = samples(200)
    model = Overconfident()
    with pytest.raises(ValueError, match=r"labels of every class .* got none of 3"):
        calibrate(model, [(logits, labels.clamp_max(2))])
    with pytest.raises(ValueError, match="`noise` must be of 4 classes"):
        calibrate(model, [(logits, labels)], noise=torch.eye(3))
    with pytest.raises(ValueError, match="rows of `noise`"):
        calibrate(model, [(logits, labels)], noise=torch.ones(4, 4))
    flipped = torch.eye(4).roll(1, 1) * 0.6 + torch.eye(4) * 0.4
    with pytest.raises(ValueError, match=r"the most frequent of each class; got frequency 0\.40"):
        calibrate(model, [(logits, labels)], noise=flipped)
    with pytest.raises(ValueError, match="`prior`"):
        calibrate(model, [(logits, labels)], prior=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    with pytest.raises(TypeError, match="`noise` must be a"):
        calibrate(model, [(logits, labels)], noise=0.3)
    with pytest.raises(TypeError, match="`model` must give a BalancerOutput, or logits; got tuple"):
        calibrate(Pair(), [(logits, labels)])


class Pair(nn.Module):
    def forward(self, logits):
        return logits, logits


def test_a_criterion_that_knows_nothing_is_refused():
    model = ReliabilityBalancer(8, CLASSES)
    criterion = RobustLoss(model, torch.arange(40) % CLASSES, epochs=6)
    criterion.caution = "predictions do not agree with the labels"
    with pytest.raises(ValueError, match="`noise` must be of a model that predicts its labels"):
        calibrate(model, [(torch.randn(40, 8), torch.arange(40) % CLASSES)], noise=criterion)


FEW = "calibration needs at least 100 held-out samples; got 20"


def test_few_samples_fit_one_temperature():
    logits, labels = samples(20, seed=1)
    with pytest.warns(UserWarning, match=FEW + r" .* one temperature, \d\.\d+, was fitted"):
        calibrated = calibrate(Overconfident(), [(logits, labels)])
    assert calibrated.calibrator.fitted == "one temperature"
    temperature = TemperatureScaling().fit(3.0 * logits, labels)
    torch.testing.assert_close(
        calibrated(logits).log_probs, temperature(3.0 * logits), atol=1e-5, rtol=1e-5
    )


def test_few_samples_keep_probabilities_that_are_not_significantly_wrong():
    logits, labels = samples(20, seed=1)
    with pytest.warns(UserWarning, match=FEW + ".* the probabilities are unchanged"):
        calibrator = Calibrator(CLASSES).fit(logits, labels)
    assert calibrator.fitted == "the identity"
    torch.testing.assert_close(calibrator(logits), logits.log_softmax(-1))


@pytest.mark.parametrize("count", [12, 20])
def test_few_samples_do_not_make_calibrated_probabilities_worse(count):
    """The mean over draws; in the last draw of 12, all predictions are right."""
    points, truth = samples(4000, seed=9)
    before, losses = F.cross_entropy(points, truth), []
    for seed in range(20):
        logits, labels = samples(count, seed=seed)
        with pytest.warns(UserWarning, match="needs at least 100"):
            calibrator = Calibrator(CLASSES).fit(logits, labels)
        losses.append(F.cross_entropy(calibrator(points), truth))
    assert float(torch.stack(losses).mean() - before) < 0.02


def test_few_samples_of_a_balancer_keep_its_branches():
    model, _, draw = trained()
    points, truth = draw(40, 5)
    with torch.no_grad():
        output = model.eval()(points)
    calibrator = Calibrator(CLASSES, model.correction_weight)
    calibrator.fit(*(lambda points, truth: (model(points), truth))(*draw(400, 6)))
    assert calibrator.fitted == "a temperature per branch, then top-label scaling"
    with pytest.warns(UserWarning, match="got 40"):
        calibrator.fit(output, truth)
    temperatures = calibrator.scaling.temperatures
    assert temperatures[:3].eq(1.0).all()
    expected = (output.log_probs / temperatures[3]).log_softmax(-1)
    torch.testing.assert_close(calibrator(output), expected, atol=1e-5, rtol=1e-5)


def test_uneven_weights_count_as_fewer_samples():
    logits, labels = samples(300)
    weights = torch.tensor([1e-3, 1.0, 1.0, 1.0])
    with pytest.warns(UserWarning, match="effective sample size"):
        Calibrator(CLASSES).fit(logits, labels, class_prior=weights)


def blobs(shares, count, seed):
    """Overlapping classes of these shares."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(shares), count, True, generator=generator)
    points = 1.5 * F.one_hot(labels, 8) + 0.8 * torch.randn(count, 8, generator=generator)
    return points, labels


EVEN, UNEVEN = [1.0, 1.0, 1.0], [0.6, 0.25, 0.15]


@pytest.fixture(scope="module", params=["given", "even"])
def of_given_or_even_classes(request):
    """A robust balancer trained by ReliabilityLoss on uneven, or by RobustLoss on even classes."""
    torch.manual_seed(0)
    model = ReliabilityBalancer(8, 3)
    points, labels = blobs(UNEVEN if request.param == "given" else EVEN, 3000, 0)
    criterion = ReliabilityLoss()
    if request.param == "even":
        kept = torch.cat([(labels == each).nonzero().squeeze(1)[:900] for each in range(3)])
        points, labels = points[kept], labels[kept]
        criterion = RobustLoss(model, labels, epochs=8)
    fit_head(model, points, labels, criterion=criterion, epochs=8, learning_rate=1e-2)
    assert torch.allclose(model.class_prior, torch.ones(3) / 3)  # so no record tells them apart
    return model, request.param


def test_held_out_labels_tell_what_the_model_assumes(of_given_or_even_classes):
    model, assumed = of_given_or_even_classes
    points, labels = blobs(UNEVEN, 4000, 1)
    calibrated = calibrate(model, [(points, labels)], prior=torch.tensor(UNEVEN))
    test_points, _ = blobs(UNEVEN, 4000, 2)
    with torch.no_grad():
        shares = calibrated(test_points).probs.mean(0)
        torch.testing.assert_close(shares, torch.tensor(UNEVEN), atol=0.05, rtol=0)
        assert assumes_even_classes(model, model(points).log_probs, labels) == (assumed == "even")


def test_diagnose_assumes_the_same(of_given_or_even_classes):
    model, assumed = of_given_or_even_classes
    points, labels = blobs(UNEVEN, 4000, 1)
    error = diagnose(model, [(points, labels)]).calibration_error
    with torch.no_grad():
        plain = model(points)
        shifted = with_class_prior(plain, labels.bincount())
    expected = shifted if assumed == "even" else plain
    assert error == pytest.approx(expected_calibration_error(expected.corrected, labels))


def test_what_tells_nothing_of_even_classes_is_refused():
    scores, labels = torch.randn(100, 3), torch.arange(100) % 3
    uneven = torch.tensor([0.6, 0.3, 0.1])
    refusals = [
        (ValueError, "`labels` of dtype int64 must have shape", scores, labels[:50]),
        (ValueError, r"`labels` must .*got values from -1 to -1", scores, torch.full((100,), -1)),
        (ValueError, r"`labels` must .*got values from 5 to 5", scores, torch.full((100,), 5)),
        (
            TypeError,
            "`labels` must be an int64 tensor; got torch.float32",
            scores,
            scores.softmax(-1),
        ),
        (ValueError, "`scores` must be finite", scores * torch.nan, labels),
        (ValueError, "`scores` must hold at least 1 sample; got 0", scores[:0], labels[:0]),
        (ValueError, "`scores` must have last dimension 3", scores[:, :2], labels % 2),
        (ValueError, "`scores` must be logits or log-probabilities", scores.softmax(-1), labels),
    ]
    for recipe, prior in (("robust", None), ("paper", None), ("robust", uneven)):
        model = ReliabilityBalancer(8, 3, recipe=recipe)
        if prior is not None:
            model.class_prior.copy_(prior)
        for error, message, given, beside in refusals:
            with pytest.raises(error, match=message):
                assumes_even_classes(model, given, beside)


def test_what_the_labels_leave_open_is_warned_of():
    model, log_probs = ReliabilityBalancer(8, 2), torch.tensor([[0.6, 0.4]] * 40).log()
    labels = (torch.arange(40) % 4 == 0).long()
    with pytest.warns(UserWarning, match="not certain whether the model predicts for evenly"):
        assumes_even_classes(model, log_probs, labels)
    assert assumes_even_classes(model, log_probs, torch.arange(40) % 2)  # no matter
    model.recipe = "paper"
    assert not assumes_even_classes(model, log_probs, labels)
    model.class_prior.copy_(torch.tensor([0.7, 0.3]))
    assert assumes_even_classes(model, log_probs, labels)
