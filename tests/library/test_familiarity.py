"""Familiarity: its equation by a loop, its quantiles, its thresholds, what it refuses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance import ReliabilityBalancer, load, save
from reliability_balance.calibration import Familiarity


def outputs(count, seed=0, shift=0.0, dim=6, **options):
    """What a balancer gives for skewed embeddings of three clusters."""
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.rand(3, dim, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, dim, generator=generator)
    points = (centers[torch.arange(count) % 3] + noise).relu() + shift
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(dim, 3, **{"num_anchors": 2, **options}).eval()
    with torch.no_grad():
        return balancer(points)


def scaled(value):
    output = outputs(60)
    embedding = output.embedding.double()
    return output._replace(embedding=value * (embedding / embedding.abs().max()))


def small(**options):
    return Familiarity(6, **{"num_references": 40, **options})


def roots(embedding):
    rows = embedding.double().tolist()
    return [[math.copysign(math.sqrt(abs(each)), each) for each in row] for row in rows]


def distances_by_a_loop(fitted, asked, num_references):
    """The documented equation: the covariance and its inverse, sample by sample."""
    rows = torch.tensor(roots(fitted.embedding), dtype=torch.float64)
    classes = fitted.log_probs.argmax(-1).tolist()
    covariance = torch.zeros(6, 6, dtype=torch.float64)
    for row, own in zip(rows, classes, strict=True):
        mates = [other for other, its in zip(rows, classes, strict=True) if its == own]
        around = row - sum(mates) / len(mates)
        covariance += torch.outer(around, around) / len(rows)
    shrunk = covariance + torch.trace(covariance) / 6 * torch.eye(6, dtype=torch.float64)
    inverse = torch.linalg.inv(shrunk)
    chosen = [index * len(rows) // num_references for index in range(num_references)]
    found = []
    for row in torch.tensor(roots(asked.embedding), dtype=torch.float64):
        apart = [row - rows[index] for index in chosen]
        nearest = sorted(math.sqrt(float(each @ inverse @ each)) for each in apart)[:3]
        found.append(sum(nearest) / 3)
    return torch.tensor(found), chosen


def test_the_distance_is_found_by_a_loop():
    fitted, asked = outputs(130), outputs(20, seed=1)
    familiarity = small().fit(fitted)
    expected, _ = distances_by_a_loop(fitted, asked, 40)
    torch.testing.assert_close(familiarity.distance(asked), expected.float())


def test_the_familiarity_is_the_share_of_fitting_samples_as_far_away():
    fitted, asked = outputs(140), outputs(30, seed=1)
    familiarity = small().fit(fitted)
    all_distances = familiarity.distance(fitted)
    _, chosen = distances_by_a_loop(fitted, asked, 40)
    others = [float(all_distances[row]) for row in range(140) if row not in chosen]
    assert len(others) == 100
    for distance, share in zip(familiarity.distance(asked), familiarity(asked), strict=True):
        assert float(share) == pytest.approx(sum(each >= distance for each in others) / 100)


@given(st.integers(0, 50), st.floats(0, 20))
def test_it_lies_between_0_and_1_and_falls_with_the_distance(seed, shift):
    familiarity, asked = FITTED, outputs(12, seed=seed, shift=shift)
    shares, distances = familiarity(asked), familiarity.distance(asked)
    assert bool(((shares >= 0) & (shares <= 1)).all())
    order = distances.argsort()
    assert bool((shares[order].diff() <= 0).all())


@given(st.permutations(range(8)))
def test_each_sample_is_judged_alone(order):
    asked = outputs(8, seed=3)
    moved = type(asked)(
        *(each[order] if each is not None and len(each) == 8 else each for each in asked)
    )
    torch.testing.assert_close(FITTED(moved), FITTED(asked)[list(order)])
    torch.testing.assert_close(FITTED.distance(moved), FITTED.distance(asked)[list(order)])


FITTED = small().fit(outputs(200))


def test_far_inputs_are_strange_and_still_ranked():
    far, farther = outputs(9, seed=1, shift=100.0), outputs(9, seed=1, shift=200.0)
    assert FITTED(far).tolist() == [0.0] * 9
    assert not bool(FITTED.is_familiar(far).any())
    assert bool((FITTED.distance(farther) > FITTED.distance(far)).all())


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_held_out_samples_fix_the_rate_of_false_alarms(rate):
    familiarity = small(false_alarm_rate=rate).fit(outputs(120), held_out=outputs(3000, seed=1))
    rejected = ~familiarity.is_familiar(outputs(6000, seed=2))
    assert float(rejected.float().mean()) == pytest.approx(rate, rel=0.2)


@pytest.mark.parametrize(
    "options",
    [{"num_anchors": 0}, {"attention": "tokens"}, {"num_anchors": 0, "attention": "single"}],
    ids=str,
)
def test_anchors_and_attention_are_not_needed(options):
    familiarity = small().fit(outputs(100, **options))
    assert bool((familiarity(outputs(9, seed=1, shift=50.0, **options)) == 0).all())


def test_tokens_are_judged_by_their_mean():
    balancer = ReliabilityBalancer(6, 3, attention="tokens").eval()
    familiarity = small().fit(balancer(torch.rand(100, 4, 6)))
    assert familiarity(balancer(torch.rand(5, 2, 6))).shape == (5,)


def test_constant_features_and_one_predicted_class_are_no_trouble():
    fitted = outputs(100)
    fitted.embedding[:, 2] = 0.0
    one_class = fitted._replace(log_probs=torch.tensor([0.0, -9.0, -9.0]).expand(100, 3))
    asked = outputs(5, seed=1)
    assert bool(small().fit(one_class).distance(asked).isfinite().all())


def test_equal_samples_count_as_fitted():
    fitted = outputs(100)
    same = fitted._replace(embedding=fitted.embedding[:2].repeat(50, 1))
    one_class = same._replace(log_probs=fitted.log_probs[:1].expand(100, 3))
    assert small().fit(one_class)(one_class).tolist() == [1.0] * 100


def test_autocast_narrows_nothing():
    asked = outputs(20, seed=1)
    expected = FITTED.distance(asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(FITTED.distance(asked), expected)


def test_double_precision_is_kept():
    fitted = outputs(100)
    double = fitted._replace(embedding=fitted.embedding.double())
    assert small().double().fit(double).distance(double).dtype == torch.float64


@pytest.mark.parametrize("value", [1e-300, 1e154, 1e300])
def test_squares_that_overflow_change_nothing_in_double_precision(value):
    usual, huge = scaled(1.0), scaled(value)
    expected = small().double().fit(usual)(usual)
    torch.testing.assert_close(small().double().fit(huge)(huge), expected, rtol=0.0, atol=0.02)


def test_a_checkpoint_brings_it_back(tmp_path):
    pytest.importorskip("safetensors")
    path, asked = tmp_path / "model.safetensors", outputs(20, seed=1)
    model = ReliabilityBalancer(6, 3, num_anchors=2)
    save(path, model, extras={"familiarity": FITTED})
    found = load(path).extras["familiarity"]
    assert torch.equal(found(asked), FITTED(asked))
    assert torch.equal(found.distance(asked), FITTED.distance(asked))
    assert str(found) == str(FITTED)


def test_a_forged_size_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    forged = small()
    forged.num_references = 10**9
    with pytest.raises(ValueError, match="extras"):
        save(path, ReliabilityBalancer(6, 3), extras={"familiarity": forged})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small()(outputs(3)), RuntimeError, "`fit` must be called"),
        (lambda: FITTED(torch.randn(3, 6)), TypeError, "`output` must be a BalancerOutput"),
        (lambda: FITTED(outputs(3, dim=7)), ValueError, "`output.embedding` must have last"),
        (
            lambda: small().fit(outputs(59)),
            ValueError,
            r"`output` must hold at least 60 samples, num_references \+ 1 / false_alarm_rate; "
            "got 59",
        ),
        (
            lambda: small().fit(outputs(59), held_out=outputs(19)),
            ValueError,
            "`held_out` must hold at least 20 samples, 1 / false_alarm_rate; got 19",
        ),
        (
            lambda: small().fit(outputs(39), held_out=outputs(20)),
            ValueError,
            "`output` must hold at least 40 samples, num_references; got 39",
        ),
        (
            lambda: small().fit(outputs(60)._replace(embedding=torch.ones(60, 6))),
            ValueError,
            "`output.embedding` must vary within the predicted classes",
        ),
        (lambda: small().fit(scaled(1e154)), ValueError, "must be of a size whose .* double"),
        (lambda: small().double().fit(scaled(1e308)), ValueError, "must be of a size whose"),
        (lambda: Familiarity(0), ValueError, "`embedding_dim` must be at least 1"),
        (lambda: Familiarity(6, num_references=2), ValueError, "`num_references` must be at"),
        (lambda: Familiarity(6, false_alarm_rate=1.0), ValueError, "`false_alarm_rate` must lie"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
