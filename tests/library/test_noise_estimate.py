"""The noise estimate against plain loops, and how often its intervals hold the truth."""

import numpy as np
import pytest
import torch

from reliability_balance.data import pair_noise
from reliability_balance.labels import (
    Interval,
    RefurbishedTargets,
    estimate_noise,
    inspect_embeddings,
    noise_from_beliefs,
)
from reliability_balance.labels.knowledge import SMALLEST_PHI, confused_pairs
from reliability_balance.labels.noise_estimate import estimate_rate

MATRIX = torch.tensor([[0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.1, 0.2, 0.7]])
START = 0.5 * torch.eye(3) + 0.5 / 3


def draw(generator, count=300):
    """Beliefs that mean what they say, true classes drawn from them, labels drawn from MATRIX."""
    beliefs = (2.5 * torch.randn(count, 3, generator=generator)).softmax(-1)
    true = beliefs.multinomial(1, generator=generator).squeeze(-1)
    return beliefs, true, MATRIX[true].multinomial(1, generator=generator).squeeze(-1)


def fit_by_loops(beliefs, labels, steps):
    matrix = START.tolist()
    for _ in range(steps):
        joint = [[0.0] * 3 for _ in range(3)]
        for row, label in zip(beliefs.tolist(), labels.tolist(), strict=True):
            evidence = sum(row[c] * matrix[c][label] for c in range(3))
            for c in range(3):
                joint[c][label] += row[c] * matrix[c][label] / evidence / len(labels)
        matrix = [[cell / sum(cells) for cell in cells] for cells in joint]
    return 1 - sum(joint[c][c] for c in range(3)), torch.tensor(matrix)


def test_estimate_is_where_loops_end():
    beliefs, _, labels = draw(torch.Generator().manual_seed(0), count=60)
    rate, matrix = fit_by_loops(beliefs, labels, steps=400)
    noise = noise_from_beliefs(beliefs, labels, START, num_resamples=2)
    assert float(noise.rate.value) == pytest.approx(rate, abs=1e-3)
    torch.testing.assert_close(noise.matrix.value, matrix, rtol=0, atol=3e-3)
    torch.testing.assert_close(noise.matrix.value.sum(-1), torch.ones(3))
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    soft = noise_from_beliefs(beliefs, one_hot, START, num_resamples=2)
    torch.testing.assert_close(soft, noise)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """With beliefs that mean what they say, about 93 % for 95 %; all 9 entries and the rate."""
    generator = torch.Generator().manual_seed(1)
    true_rate = 1 - float(MATRIX.diagonal().mean())  # the classes are as frequent
    rate_hits, matrix_hits = 0, torch.zeros(3, 3)
    for repeat in range(50):
        beliefs, _, labels = draw(generator)
        noise = noise_from_beliefs(beliefs, labels, START, num_resamples=80, seed=repeat)
        rate_hits += int(noise.rate.low <= true_rate <= noise.rate.high)
        matrix_hits += (noise.matrix.low <= MATRIX) & (noise.matrix.high >= MATRIX)
    assert rate_hits >= 43
    assert matrix_hits.min() >= 40
    assert 45 <= matrix_hits.mean() < 50


def test_intervals_do_not_cover_beliefs_that_are_wrong():
    """What the docstring warns of: labels learned by heart look right."""
    labels = pair_noise(torch.arange(300) % 3, 0.3, 3, seed=0)
    by_heart = 0.99 * torch.nn.functional.one_hot(labels, 3) + 0.01 / 3
    noise = noise_from_beliefs(by_heart, labels, START, num_resamples=20)
    assert float(noise.rate.high) < 0.05


def test_a_higher_level_is_wider_and_seeds_repeat():
    beliefs, _, labels = draw(torch.Generator().manual_seed(2))
    wide, narrow, again = (
        noise_from_beliefs(beliefs, labels, START, level=level, num_resamples=50)
        for level in (0.99, 0.5, 0.5)
    )
    assert wide.rate.low < narrow.rate.low < narrow.rate.value < narrow.rate.high < wide.rate.high
    torch.testing.assert_close(narrow, again, rtol=0, atol=0)


def test_a_class_that_is_never_met_keeps_an_even_row():
    beliefs = torch.tensor([[1.0, 0.0, 0.0]]).repeat(20, 1)
    noise = noise_from_beliefs(beliefs, torch.zeros(20, dtype=torch.int64), START, num_resamples=3)
    torch.testing.assert_close(noise.matrix.value[1:], torch.full((2, 3), 1 / 3))
    assert [float(each) for each in noise.rate] == [0.0, 0.0, 0.0]


def test_a_scalar_interval_is_shown_in_percent():
    low, high = torch.tensor(0.014), torch.tensor(0.0281)
    assert str(Interval(torch.tensor(0.02), low, high)) == "2.0 % [1.4, 2.8]"
    assert f"{Interval(torch.tensor(0.366), low, high)}" == "37 % [1, 3]"
    matrix = Interval(torch.eye(2), torch.eye(2), torch.eye(2))
    assert str(matrix) == repr(matrix)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 1.0}, r"`level` must lie in \(0, 1\)"),
        ({"num_resamples": 1}, "`num_resamples`"),
        ({"start": torch.eye(2)}, r"`start` must have shape \(3, 3\)"),
        ({"beliefs": torch.ones(3)}, "`beliefs` must have shape"),
        ({"labels": torch.tensor([0, 1, 9])}, r"`labels` must lie in \[0, 3\)"),
    ],
)
def test_wrong_input_is_named(change, message):
    arguments = {
        "beliefs": torch.full((3, 3), 1 / 3),
        "labels": torch.tensor([0, 1, 2]),
        "start": START,
    }
    with pytest.raises(ValueError, match=message):
        noise_from_beliefs(**{**arguments, **change})


def lookalikes(count, shift):
    """Four classes with 20 % of the labels those of the next class; the last two are near."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % 4
    embeddings = torch.randn(count, 8, generator=generator)
    embeddings[torch.arange(count), classes.clamp_max(2)] += 5.0
    embeddings[classes == 3, 5] += shift
    is_wrong = torch.rand(count, generator=generator) < 0.2
    labels = torch.where(is_wrong, (classes + 1) % 4, classes)
    return inspect_embeddings(embeddings, labels, 4), labels


def test_classes_that_look_alike_come_with_a_warning():
    message = "noise matrix is unreliable for classes .* hardly tell apart: 2 and 3$"
    with pytest.warns(UserWarning, match=message) as caught:
        estimate_noise(*lookalikes(1000, 0.0), num_resamples=2)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("count", "shift"), [(1000, 2.0), (100, 0.0)])
def test_others_and_too_few_labels_come_without(count, shift, recwarn):
    estimate_noise(*lookalikes(count, shift), num_resamples=2)
    assert not [each for each in recwarn if "tell apart" in str(each.message)]


def test_the_rate_alone_comes_without_the_warning_of_the_matrix(recwarn):
    estimate_rate(*lookalikes(1000, 0.0))
    assert not recwarn.list


def test_phi_is_that_of_a_two_by_two_table():
    targets, labels = lookalikes(1000, 0.0)
    predicted = targets.out_of_sample.classes.tolist()
    expected = []
    for one in range(4):
        for two in range(one + 1, 4):
            rows = [(p, y) for p, y in zip(predicted, labels.tolist(), strict=True)]
            rows = [(p, y) for p, y in rows if p in (one, two) and y in (one, two)]
            table = np.array(rows) == one
            if np.corrcoef(table.T)[0, 1] < SMALLEST_PHI:
                expected.append((one, two))
    assert confused_pairs(targets, labels) == expected == [(2, 3)]
    soft = torch.nn.functional.one_hot(labels, 4).float()
    assert confused_pairs(targets, soft) == expected


def grown_targets(size, wrong, added_wrong):
    """Targets of two cohorts, the later one predicted with more confidence; and their labels."""
    targets = RefurbishedTargets(size, 2, warmup=2)
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(2, (2 * size,), generator=generator)
    flipped = torch.rand(2 * size, generator=generator) < torch.tensor(
        [wrong, added_wrong]
    ).repeat_interleave(size)
    labels = torch.where(flipped, 1 - truth, truth)
    probs = torch.nn.functional.one_hot(truth, 2) * 0.9 + 0.05
    for count, known in enumerate((size, 2 * size)):
        if count:
            targets.add_samples(size)
        for _ in range(3):
            targets(torch.arange(known), labels[:known], probs[:known])
    confidence = torch.rand(2 * size, generator=generator) * 0.4 + 0.55
    confidence[size:] = 0.995 + confidence[size:] / 200
    targets.out_of_sample.classes.copy_(truth)
    targets.out_of_sample.confidence.copy_(confidence)
    return targets, labels, float(flipped.float().mean())


@pytest.mark.parametrize(("wrong", "added_wrong"), [(0.3, 0.0), (0.0, 0.3), (0.3, 0.3)])
def test_rate_holds_after_samples_with_other_noise_were_added(wrong, added_wrong):
    targets, labels, rate = grown_targets(400, wrong, added_wrong)
    found = estimate_rate(targets, labels)
    assert found.low < rate < found.high
    assert abs(found.value - rate) < 0.05


def test_rate_of_added_samples_that_were_not_predicted_is_unlimited():
    targets, labels, _ = grown_targets(400, 0.3, 0.0)
    whole = estimate_rate(targets, labels)
    targets.out_of_sample.classes[400:] = -1
    found = estimate_rate(targets, labels)
    assert found.high > 0.5 + 0.5 * 0.25  # half of the samples may all be wrong
    assert found.low <= whole.low
