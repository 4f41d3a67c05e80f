"""Areas and risks of selective prediction, held against loops and against true rates."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance.calibration import (
    area_under_generalized_risk,
    area_under_risk_coverage,
    selective_risk,
)

AREAS = (area_under_risk_coverage, area_under_generalized_risk)


def curves(errors):
    """Risk and generalized risk at each number of kept predictions, the surest first."""
    wrong, risks, generalized = 0, [], []
    for kept, error in enumerate(errors, 1):
        wrong += error
        risks.append(wrong / kept)
        generalized.append(wrong / len(errors))
    return risks, generalized


def tensors(samples):
    confidence = torch.tensor([float(score) for score, _ in samples])
    return confidence, torch.tensor([right for _, right in samples], dtype=torch.bool)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.randoms())
def test_areas_are_means_over_the_curves(rights, random):
    samples = list(enumerate(rights))
    expected = [sum(each) / len(rights) for each in curves([not r for r in reversed(rights)])]
    random.shuffle(samples)
    found = [area(*tensors(samples)) for area in AREAS]
    assert found == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_count_as_the_mean_over_all_orders(samples):
    expected = [[], []]
    for order in itertools.permutations(samples):
        ranked = sorted(order, key=lambda sample: -sample[0])  # stable
        for area, risks in zip(expected, curves([not right for _, right in ranked]), strict=True):
            area.append(sum(risks) / len(risks))
    found = [area(*tensors(samples)) for area in AREAS]
    assert found == pytest.approx([sum(each) / len(each) for each in expected])


def test_the_generalized_area_is_the_auroc_of_errors():
    """Traub et al., 2024: AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2, but for 1 / N."""
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(5000, generator=generator)
    right = torch.rand(5000, generator=generator) < confidence
    auroc = sklearn.roc_auc_score(right.numpy(), confidence.numpy())
    accuracy = float(right.double().mean())
    expected = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    found = area_under_generalized_risk(confidence, right)
    assert found == pytest.approx(expected, abs=2 / 5000)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20),
    st.sampled_from([0.01, 0.5, 0.8, 1.0]),
)
def test_the_risk_is_that_of_the_surest_and_their_equals(samples, coverage):
    ordered = sorted((score for score, _ in samples), reverse=True)
    lowest = ordered[math.ceil(coverage * len(samples)) - 1]
    answered = [right for score, right in samples if score >= lowest]
    found = selective_risk(*tensors(samples), coverages=[coverage], num_resamples=2)
    value, low, high = map(float, found.risks[coverage])
    assert value == pytest.approx(answered.count(False) / len(answered))
    assert 0 <= low <= value <= high <= 1


def test_intervals_contain_the_truth_as_often_as_asked():
    generator = torch.Generator().manual_seed(0)
    big = torch.rand(200_000, generator=generator)
    big_right = torch.rand(len(big), generator=generator) < big
    true_areas = [area(big, big_right) for area in AREAS]
    true_risk = 0.25  # mean of 1 - u over u in [0.5, 1]
    held = torch.zeros(3)
    for seed in range(100):
        confidence = torch.rand(300, generator=generator)
        right = torch.rand(300, generator=generator) < confidence
        found = selective_risk(
            confidence, right, coverages=[0.5], level=0.9, num_resamples=100, seed=seed
        )
        pairs = zip(
            (found.aurc, found.augrc, found.risks[0.5]), (*true_areas, true_risk), strict=True
        )
        held += torch.tensor([bool(each.low <= truth <= each.high) for each, truth in pairs])
    assert bool((held >= 80).all()), held  # of 100; 90 but for chance


def test_it_is_seeded_and_printed():
    confidence = torch.linspace(0, 1, 50)
    first, second = (selective_risk(confidence, confidence > 0.3, seed=3) for _ in range(2))
    assert first == second
    assert [line.split(" %")[0] for line in str(first).splitlines()[2:]] == [
        f"risk at {share}" for share in (50, 80, 90, 100)
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c, r: selective_risk(c[:0], r[:0]), ValueError, "at least 1 sample; got 0"),
        (lambda c, r: selective_risk(c, r.float()), TypeError, "`right` must be a bool tensor"),
        (lambda c, r: selective_risk(c, r[:1]), ValueError, r"`right` must have shape \(2,\)"),
        (lambda c, r: selective_risk(c, r, coverages=[0.0]), ValueError, "`coverages` must lie in"),
        (lambda c, r: selective_risk(c, r, level=1.0), ValueError, "`level` must lie in"),
        (lambda c, r: selective_risk(c, r, num_resamples=1), ValueError, "`num_resamples` must"),
        (
            lambda c, r: area_under_risk_coverage(c / 0, r),
            ValueError,
            "`confidence` must be finite",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.tensor([0.5, 0.6]), torch.tensor([True, False]))
