"""Class shares and learned counts, against their sums in loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_targets import short_targets

from reliability_balance.labels.class_shares import ClassShares

NUM_SAMPLES, NUM_CLASSES = 12, 3
ALL = torch.ones(NUM_SAMPLES, 1)


def draw(seed, sharpness=1.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_SAMPLES, NUM_CLASSES)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (sharpness * logits).softmax(-1)


def after_one_epoch(beliefs):
    shares = ClassShares(NUM_SAMPLES, NUM_CLASSES).double()
    for rows in torch.arange(NUM_SAMPLES).split(5):
        shares.add(shares.collect(beliefs[rows], beliefs[rows], ALL[rows]))
    return shares


@given(st.integers(0, 10_000), st.floats(0.01, 20.0))
@settings(max_examples=25, deadline=None)
def test_learned_counts_follow_the_variance(seed, sharpness):
    beliefs = draw(seed, sharpness)
    shares = ClassShares(NUM_SAMPLES, NUM_CLASSES).double()
    shares.add(shares.collect(beliefs, beliefs, ALL))
    for c, count in enumerate(shares.learned_counts().tolist()):
        column = beliefs[:, c].tolist()
        mean = sum(column) / NUM_SAMPLES
        variance = sum((p - mean) ** 2 for p in column) / NUM_SAMPLES
        assert count == pytest.approx(NUM_SAMPLES * variance / (1 - mean), abs=1e-9)
        assert -1e-9 <= count <= sum(column) + 1e-9


def test_certain_beliefs_count_all_samples_and_equal_ones_none():
    labels = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    certain = torch.nn.functional.one_hot(labels, NUM_CLASSES).double()
    shares = ClassShares(NUM_SAMPLES, NUM_CLASSES).double()
    assert shares.learned_counts().tolist() == [0.0] * NUM_CLASSES
    shares.add(shares.collect(certain, certain, ALL))
    torch.testing.assert_close(shares.learned_counts(), certain.sum(0))
    alike = certain.mean(0).expand_as(certain)
    torch.testing.assert_close(after_one_epoch(alike).learned_counts(), torch.zeros(3).double())
    one_class = torch.eye(NUM_CLASSES)[0].double().expand_as(certain)
    torch.testing.assert_close(after_one_epoch(one_class).learned_counts(), torch.zeros(3).double())


@given(st.integers(0, 10_000), st.floats(0.0, 20.0))
@settings(max_examples=25, deadline=None)
def test_posterior_weight_is_that_of_the_labels_classes(seed, prior_count):
    shares = after_one_epoch(draw(seed, 3.0))
    labels = draw(seed + 1)
    weight = shares.posterior_weight(labels, prior_count)
    for y, found in zip(labels.tolist(), weight.squeeze(-1).tolist(), strict=True):
        counts = zip(y, shares.learned_counts().tolist(), strict=True)
        assert found == pytest.approx(sum(share * m / (m + prior_count) for share, m in counts))
        assert 0.0 <= found <= 1.0 + 1e-9


def test_without_a_prior_count_all_doubts_count_from_the_start():
    shares = ClassShares(NUM_SAMPLES, NUM_CLASSES)
    for prior_count, expected in ((0.0, 1.0), (1.0, 0.0)):
        weight = shares.posterior_weight(torch.eye(NUM_CLASSES), prior_count)
        torch.testing.assert_close(weight, torch.full((NUM_CLASSES, 1), expected))


def test_unknown_samples_count_for_nothing():
    beliefs = draw(0)
    shares, known = ClassShares(NUM_SAMPLES, NUM_CLASSES), ClassShares(NUM_SAMPLES, NUM_CLASSES)
    known.add(known.collect(beliefs[:4], beliefs[:4].sqrt(), torch.ones(4, 1)))
    shares.add(
        shares.collect(beliefs, beliefs.sqrt(), (torch.arange(NUM_SAMPLES) < 4).unsqueeze(-1))
    )
    for name, value in known.state_dict().items():
        torch.testing.assert_close(shares.state_dict()[name], value)


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
@settings(max_examples=25, deadline=None)
def test_targets_mix_posterior_and_label_by_the_learned_counts(seed, prior_count):
    """Of the same state, those with a prior count lie between labels and those without."""
    made = []
    for count in (0.0, prior_count):
        targets = short_targets(
            NUM_SAMPLES, NUM_CLASSES, warmup=0, momentum=None, prior_count=count
        ).double()
        targets.classes.load_state_dict(after_one_epoch(draw(seed, 3.0)).state_dict())
        labels = draw(seed + 2)
        weight = targets.classes.posterior_weight(labels, count)
        made.append(targets(torch.arange(NUM_SAMPLES), labels, draw(seed + 1)))
    torch.testing.assert_close(made[1], weight * made[0] + (1 - weight) * labels)
