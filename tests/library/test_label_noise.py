"""Wrong labels of an exact rate and a known kind."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reliability_balance.data import pair_noise, symmetric_noise


@given(
    st.sampled_from([symmetric_noise, pair_noise]),
    st.integers(1, 200),
    st.integers(2, 10),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_the_rate_is_exact_and_no_sample_keeps_its_class(noise, count, num_classes, rate, seed):
    labels = torch.randint(num_classes, (count,))
    before = labels.clone()
    noisy = noise(labels, rate, num_classes, seed=seed)
    assert torch.equal(labels, before)
    assert int((noisy != labels).sum()) == round(rate * count)
    assert bool(((noisy >= 0) & (noisy < num_classes)).all())
    assert torch.equal(noisy, noise(labels, rate, num_classes, seed=seed))


def test_symmetric_noise_spreads_evenly_over_the_other_classes():
    labels = torch.zeros(30_000, dtype=torch.int64)
    counts = symmetric_noise(labels, 1.0, 4, seed=0).bincount(minlength=4)
    assert int(counts[0]) == 0
    assert bool(((counts[1:] / 10_000 - 1).abs() < 0.05).all())


def test_pair_noise_moves_to_the_next_class():
    labels = torch.arange(3).repeat(100)
    noisy = pair_noise(labels, 0.5, 3, seed=0)
    changed = noisy != labels
    assert torch.equal(noisy[changed], (labels[changed] + 1) % 3)


def test_another_seed_gives_other_labels():
    labels = torch.zeros(100, dtype=torch.int64)
    assert not torch.equal(
        symmetric_noise(labels, 0.5, 3, seed=0), symmetric_noise(labels, 0.5, 3, seed=1)
    )


@pytest.mark.parametrize("noise", [symmetric_noise, pair_noise])
@pytest.mark.parametrize(
    ("labels", "rate", "num_classes", "error", "message"),
    [
        (torch.zeros(3), 0.1, 3, TypeError, "`labels` must be an int64 tensor; got torch.float32"),
        (torch.zeros(3, 1).long(), 0.1, 3, ValueError, r"`labels` must have shape \(N,\)"),
        (torch.tensor([3]), 0.1, 3, ValueError, r"`labels` must lie in \[0, 3\); got values fr"),
        (torch.tensor([0]), 1.5, 3, ValueError, r"`rate` must lie in \[0, 1\]; got 1.5"),
        (torch.tensor([0]), float("nan"), 3, ValueError, "`rate` must lie in"),
        (torch.tensor([0]), 0.1, 1, ValueError, "`num_classes` must be at least 2; got 1"),
    ],
)
def test_errors(noise, labels, rate, num_classes, error, message):
    with pytest.raises(error, match=message):
        noise(labels, rate, num_classes, seed=0)
