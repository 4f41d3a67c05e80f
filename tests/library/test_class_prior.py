"""Unbalanced classes: answers for even and for other class frequencies."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss, fit_head, wrap
from reliability_balance.core import get_recipe, with_class_prior

EMBEDDING = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
PRIOR = torch.tensor([0.7, 0.2, 0.1])
LABELS = torch.tensor([0, 1, 2, 1, 0])
BRANCHES = ("corrected", "primary", "anchor", "attentive", "correction")
frequencies = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3).map(torch.tensor)


def even_output(**options):
    torch.manual_seed(1)
    options = {"num_anchors": 2, "attention": "tokens", **options}
    return ReliabilityBalancer(8, 3, **options).eval()(EMBEDDING)


def assert_same(first, second, **tolerances):
    for name, one, other in zip(first._fields, first, second, strict=True):
        if name == "logits":  # known up to a constant
            one, other = one.log_softmax(-1), other.log_softmax(-1)
        if one is None:
            assert other is None, name
        else:
            torch.testing.assert_close(one, other, msg=name, **tolerances)


@pytest.mark.parametrize("name", BRANCHES)
def test_bayes_rule_entry_by_entry(name):
    even, weighed = even_output(), with_class_prior(even_output(), PRIOR)
    for before, after, confidence in zip(
        getattr(even, name).tolist(),
        getattr(weighed, name).tolist(),
        getattr(weighed, "confidence" if name == "corrected" else f"{name}_confidence").tolist(),
        strict=True,
    ):
        products = [p * prior for p, prior in zip(before, PRIOR.tolist(), strict=True)]
        wanted = [product / sum(products) for product in products]
        entropy = -sum(p * math.log(p) for p in wanted)
        assert after == pytest.approx(wanted, abs=1e-6)
        assert confidence == pytest.approx(1 - entropy / math.log(3), abs=1e-5)


def test_what_depends_on_the_branches_follows():
    weighed = with_class_prior(even_output(), PRIOR)
    torch.testing.assert_close(weighed.log_probs.exp(), weighed.corrected)
    torch.testing.assert_close(weighed.logits.softmax(-1), weighed.primary)
    torch.testing.assert_close(weighed.anchor_log_probs.exp(), weighed.anchor)
    torch.testing.assert_close(weighed.attentive_log_probs.exp(), weighed.attentive)
    changed = weighed.corrected.argmax(-1) != weighed.primary.argmax(-1)
    assert torch.equal(weighed.changed, changed)


@given(frequencies)
def test_the_inverse_prior_restores(prior):
    even = even_output()
    back = with_class_prior(with_class_prior(even, prior), 1 / prior)
    assert_same(back, even, rtol=1e-3, atol=1e-4)


@given(frequencies, st.floats(1e-3, 1e3))
def test_only_the_ratios_of_frequencies_count(prior, factor):
    one, other = (with_class_prior(even_output(), each) for each in (prior, factor * prior))
    assert_same(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("prior", "like"),
    [
        (torch.tensor([3e38, 3e38, 1e38]), [3, 3, 1]),
        (torch.tensor([3e-300, 3e-300, 1e-300], dtype=torch.float64), [3, 3, 1]),
        (torch.tensor([60_000, 60_000, 20_000], dtype=torch.float16), [3, 3, 1]),
        (torch.tensor([2**62, 2**62, 2**61]), [2, 2, 1]),
    ],
)
def test_frequencies_of_any_size_have_their_ratios(prior, like):
    one, other = (with_class_prior(even_output(), each) for each in (prior, torch.tensor(like)))
    assert_same(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"num_anchors": 0}, {"attention": "off"}])
def test_absent_branches_stay_absent(options):
    output = even_output(**options)
    weighed = with_class_prior(output, PRIOR)
    assert [each is None for each in weighed] == [each is None for each in output]


@pytest.mark.parametrize("options", [{}, {"num_anchors": 0}, {"attention": "off"}])
@pytest.mark.parametrize("recipe", ["robust", "paper"])
def test_the_loss_with_frequencies_is_that_of_answers_with_them(recipe, options):
    output, criterion = even_output(**options), ReliabilityLoss(recipe=recipe)
    soft = torch.rand(5, 3, generator=torch.Generator().manual_seed(2)).softmax(-1)
    for labels in (LABELS, soft):
        terms = criterion(output, labels, class_prior=torch.tensor([7, 2, 1]))
        expected = criterion(with_class_prior(output, PRIOR), labels)
        torch.testing.assert_close(terms, expected)


def test_the_loss_with_even_frequencies_is_that_without():
    output, criterion = even_output(), ReliabilityLoss()
    even = criterion(output, LABELS, class_prior=torch.ones(3))
    torch.testing.assert_close(even, criterion(output, LABELS))


def test_frequencies_are_saved_with_the_model():
    model, even = wrap(torch.nn.Linear(4, 3)), wrap(torch.nn.Linear(4, 3))
    RobustLoss(model, torch.tensor([0] * 6 + [1]), epochs=2)  # and one more of each
    even.load_state_dict(model.state_dict())
    torch.testing.assert_close(even.state_dict()["balancer.class_prior"], PRIOR)


def test_rare_classes_are_found():
    """One in fifty: two overlapping clouds, separated where both are equally likely."""
    torch.manual_seed(2)
    labels = (torch.arange(2000) % 50 == 0).long()
    features = torch.randn(2000, 4)
    features[:, 0] += 2.0 * labels
    recall = {}
    for even in (True, False):
        torch.manual_seed(3)
        balancer = ReliabilityBalancer(4, 2)
        recipe = replace(get_recipe("robust"), refurbishes_labels=False, logit_adjustment=even)
        criterion = RobustLoss(balancer, labels, epochs=8, recipe=recipe)
        fit_head(balancer, features, labels, criterion=criterion, epochs=8, learning_rate=1e-2)
        output = balancer(features)
        for name, each in (
            ("own", output),
            ("as in the labels", with_class_prior(output, balancer.class_prior)),
        ):
            found = (each.corrected.argmax(-1) == labels)[labels == 1]
            recall[even, name] = float(found.float().mean())
    assert recall[True, "own"] > 0.7 > 0.4 > recall[False, "own"]
    assert recall[True, "as in the labels"] < 0.4


def test_gradients_are_finite_for_extreme_priors():
    balancer = ReliabilityBalancer(8, 3, attention="tokens")
    prior = torch.tensor([1e9, 1.0, 1.0])
    ReliabilityLoss()(balancer(1e3 * EMBEDDING), LABELS, class_prior=prior).total.backward()
    gradients = [p.grad for p in balancer.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ([1, 1, 1], TypeError, "`class_prior` must be a torch.Tensor; got list"),
        (torch.ones(2), ValueError, r"`class_prior` must have shape \(C,\) = \(3,\); got \(2,\)"),
        (torch.tensor([3, 0, 1]), ValueError, r"finite and above 0; got \[3, 0, 1\]"),
        (torch.tensor([1.0, torch.nan, 1.0]), ValueError, "finite and above 0; got"),
    ],
)
def test_bad_priors(prior, error, message):
    with pytest.raises(error, match=message):
        ReliabilityLoss()(even_output(), LABELS, class_prior=prior)
    with pytest.raises(error, match=message):
        with_class_prior(even_output(), prior)
