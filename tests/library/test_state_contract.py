"""What the two that remember must do: targets and sampler."""

import copy
import pickle

import numpy as np
import pytest
import torch
from short_targets import short_targets

from reliability_balance.data import DataRefinementSampler, limit_per_key, refine

COPIES = [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]

LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1, 0])


def batch(size=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    index = torch.randint(9, (size,), generator=generator)
    return index, LABELS[index], torch.randn(size, 3, generator=generator).softmax(-1).to(dtype)


SETTINGS = {"plain": {"warmup": 0}, "held back": {"warmup": 2, "held_back": 0.4, "momentum": None}}


@pytest.fixture(params=SETTINGS)
def make(request):
    """A maker of targets that have seen some batches."""

    def made(*, rounds=3, **options):
        targets = short_targets(9, 3, **SETTINGS[request.param], **options)
        for _ in range(rounds):
            targets(*batch())
        return targets

    return made


def assert_same_state(first, second, **tolerance):
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype_of_predictions_and_averages(make, dtype):
    made = make(dtype=dtype)(*batch(dtype=dtype))
    assert made.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(made.sum(-1), torch.ones(6, dtype=made.dtype), rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(make, dtype):
    alone, inside = make(), make()
    expected = alone(*batch())
    with torch.autocast("cpu", dtype=dtype):
        made = inside(*batch())
    torch.testing.assert_close(made, expected)
    assert_same_state(inside, alone)


@pytest.mark.parametrize("duplicate", COPIES)
def test_copies_and_state_dicts_go_on_alike(make, duplicate):
    targets = make()
    other, filled = duplicate(targets), make(rounds=0)
    filled.load_state_dict(targets.state_dict())
    expected = targets(*batch())
    for each in (other, filled):
        assert torch.equal(each(*batch()), expected)
        assert_same_state(each, targets, rtol=0, atol=0)


def test_compiles_without_a_graph_break(make):
    torch.compiler.reset()
    plain, traced = make(), make()
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(*batch()), plain(*batch()))
    assert_same_state(traced, plain)


def test_edges_of_the_batch(make):
    targets = make()
    before = copy.deepcopy(targets.state_dict())
    index, labels, probs = batch()
    assert targets(index[:0], labels[:0], probs[:0]).shape == (0, 3)
    for name, value in before.items():
        torch.testing.assert_close(targets.state_dict()[name], value)
    one_hot = torch.eye(3)[[0, 1, 1]]
    index = torch.tensor([0, 4, 8])
    made = targets(index, LABELS[index], one_hot)
    assert bool(torch.isfinite(made).all())
    index, labels, probs = batch()
    strided = probs.repeat_interleave(2, dim=-1)[:, ::2]
    assert torch.equal(make()(index, labels, strided), make()(index, labels, probs))


def test_deterministic_algorithms_suffice(make):
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(make()(*batch(64)), make()(*batch(64)))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_second_device_gives_the_same(make):
    expected = make()(*batch())
    made = make().to("cuda")(*(each.to("cuda") for each in batch()))
    torch.testing.assert_close(made.cpu(), expected)


def sampler(**options):
    return DataRefinementSampler(torch.arange(20) % 3, torch.arange(20) % 4, per_class=5, **options)


@pytest.mark.parametrize("duplicate", COPIES)
def test_copies_of_a_sampler_go_on_alike(duplicate):
    first = sampler()
    first.set_epoch(2)
    rows = iter(first)
    for _ in range(4):
        next(rows)
    other, filled = duplicate(first), sampler()
    filled.load_state_dict(first.state_dict())
    other.load_state_dict(first.state_dict())
    rest = list(rows)
    assert list(other) == list(filled) == rest
    assert len(rest) == 11


def test_one_sample_one_class_and_one_group():
    assert list(DataRefinementSampler(torch.tensor([4]), None, per_class=3)) == [0, 0, 0]
    strided = torch.zeros(20, dtype=torch.int64)[::2]
    drawn = list(DataRefinementSampler(strided, strided, per_group=4, per_class=2))
    assert len(drawn) == len(set(drawn)) == 2
    generator = np.random.default_rng(0)
    assert limit_per_key(np.array([], dtype=np.int64), 2, generator).tolist() == []
    none = np.array([], dtype=np.int64)
    assert (
        refine(
            none, none, per_group=1, per_class=1, short_classes="keep", generator=generator
        ).tolist()
        == []
    )
