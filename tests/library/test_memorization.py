"""Memorization: removed by the equation, and estimated by the control group."""

import pytest
import torch
from short_targets import short_targets

from reliability_balance.data import symmetric_noise

NUM_SAMPLES, NUM_CLASSES = 3000, 4
TRUE = torch.arange(NUM_SAMPLES) % NUM_CLASSES
LABELS = symmetric_noise(TRUE, 0.4, NUM_CLASSES, seed=0)


def simulate(strength, *, held_back, rounds, warmup=10, labels=LABELS):
    """Train a simulated network that is partly right and memorizes its targets."""
    targets = short_targets(
        NUM_SAMPLES, NUM_CLASSES, momentum=None, warmup=warmup, held_back=held_back
    )
    generator = torch.Generator().manual_seed(0)
    own = 1.5 * torch.nn.functional.one_hot(TRUE, NUM_CLASSES)
    own = own + torch.randn(own.shape, generator=generator) / 2
    remembered = torch.zeros(NUM_SAMPLES, NUM_CLASSES)
    for _ in range(rounds):
        for index in torch.randperm(NUM_SAMPLES, generator=generator).split(100):
            probs = (own[index] + strength * remembered[index]).softmax(-1)
            remembered[index] += targets(index, labels[index], probs) - probs
    return targets, own.softmax(-1)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3])
def test_the_strength_of_memorization_is_found(strength):
    targets, _ = simulate(strength, held_back=0.2, rounds=8)
    # It leans towards 0 while there is little to go by.
    assert 0.75 * strength <= float(targets.memorization.strength) <= strength + 0.02


def test_debiased_predictions_are_those_of_a_network_without_the_label():
    targets, unseen = simulate(0.3, held_back=0.2, rounds=8)
    as_they_are, _ = simulate(0.3, held_back=0.0, rounds=8)
    error = (targets.average - unseen).abs().mean()
    assert error < 0.25 * (as_they_are.average - unseen).abs().mean()


def test_wrong_labels_are_doubted_though_memorized():
    right = []
    for held_back in (0.2, 0.0):
        targets, _ = simulate(0.3, held_back=held_back, rounds=20)
        trust = targets.trust(torch.arange(NUM_SAMPLES), LABELS)
        right.append(((trust > 0.5) == (LABELS == TRUE)).float().mean())
    assert right[0] > 0.8
    assert right[1] < 0.7


def test_predictions_are_debiased_by_the_equation():
    targets = short_targets(6, 3, momentum=None, warmup=2, held_back=0.5)
    assert set(targets.memorization.control.tolist()) == {True, False}
    generator = torch.Generator().manual_seed(1)
    index, labels = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])
    sums, debiased = [[0.0] * 3 for _ in range(6)], []
    for _ in range(4):
        strength = float(targets.memorization.strength)
        probs = torch.randn(6, 3, generator=generator).softmax(-1)
        made = targets(index, labels, probs)
        rows = []
        for i in range(6):
            scores = [float(probs[i, c].log()) - strength * sums[i][c] for c in range(3)]
            rows.append(torch.tensor(scores).softmax(-1))
            for c in range(3):
                sums[i][c] += float(made[i, c] - probs[i, c])
        debiased.append(torch.stack(rows))
    torch.testing.assert_close(targets.average, torch.stack(debiased).mean(0))
    torch.testing.assert_close(targets.memorization.residuals.values, torch.tensor(sums))


def test_the_control_group_sees_no_label_until_the_warm_up_ends():
    targets = short_targets(40, 2, warmup=2, held_back=0.5)
    control = targets.memorization.control
    index, labels = torch.arange(40), torch.zeros(40, dtype=torch.int64)
    probs = torch.tensor([[0.3, 0.7]]).repeat(40, 1)
    for _ in range(2):
        made = targets(index, labels, probs)
        torch.testing.assert_close(made[control], probs[control])
        assert bool((made[~control] == torch.tensor([1.0, 0.0])).all())
    assert bool((targets(index, labels, probs)[control, 0] > 0.3).all())
    assert bool((targets.memorization.residuals.values[control, 0] > 0).all())


def test_certain_and_impossible_predictions_stay_finite():
    index, probs = torch.arange(4), torch.eye(3)[[0, 1, 2, 0]]
    for labels in (torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 1])):
        targets = short_targets(4, 3, warmup=2, held_back=0.5)
        for _ in range(3):
            assert bool(torch.isfinite(targets(index, labels, probs)).all())
        for value in targets.state_dict().values():
            assert bool(torch.isfinite(value).all())
