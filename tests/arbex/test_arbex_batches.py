import pytest
import torch
from synthetic_faces import synthetic_table

from examples.arbex.faces.augmentation import train_transform
from examples.arbex.faces.face_dataset import FaceDataset
from examples.arbex.training.epoch_batches import EpochBatches, Position, derive_seed
from reliability_balance.data import DataRefinementSampler


def batches_from(position, *, workers=0, num_replicas=1, rank=0, seed=5):
    table = synthetic_table(30)
    sampler = DataRefinementSampler(
        table.labels, None, per_class=12, num_replicas=num_replicas, rank=rank, seed=seed
    )
    return EpochBatches(
        FaceDataset(table, train_transform(16)),
        sampler,
        5,
        seed=seed,
        position=lambda: position,
        workers=workers,
    )


def same(first, second):
    return all(
        torch.equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_taken_up_in_the_middle_goes_on_as_it_would_have():
    torch.manual_seed(1)
    whole = list(batches_from(Position(2, 0)))
    assert len(whole) == len(batches_from(Position(2, 0))) == 7
    torch.manual_seed(99)
    torch.rand(3)
    assert same(list(batches_from(Position(2, 4))), whole[4:])


def test_batches_do_not_depend_on_who_loads_them():
    assert same(list(batches_from(Position(0, 0), workers=1)), list(batches_from(Position(0, 0))))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(batches_from(Position(0, 0)))
    assert torch.equal(torch.rand(2), expected)


def test_epochs_and_seeds_differ_and_repeated_faces_are_augmented_anew():
    first = list(batches_from(Position(0, 0)))
    assert not same(first, list(batches_from(Position(1, 0))))
    assert not same(first, list(batches_from(Position(0, 0), seed=6)))
    images = torch.cat([batch.image for batch in first])
    index = torch.cat([batch.index for batch in first])
    repeated = (index == index.mode().values).nonzero().flatten()
    assert len(repeated) > 1
    assert not torch.equal(images[repeated[0]], images[repeated[1]])


def test_derived_seeds_differ():
    seeds = {derive_seed(a, b, c) for a in range(4) for b in range(4) for c in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_run_goes_on_only_with_its_own_data():
    batches = batches_from(Position(0, 0))
    batches.load_state_dict(batches.state_dict())
    with pytest.raises(ValueError, match="must resume with the batches that it started with"):
        batches.load_state_dict(batches_from(Position(0, 0), seed=6).state_dict())


def test_an_epoch_must_fill_a_batch():
    table = synthetic_table(30)
    sampler = DataRefinementSampler(table.labels, None, per_class=1)
    with pytest.raises(ValueError, match="at most the 3 samples of an epoch; got 4"):
        EpochBatches(FaceDataset(table, train_transform(16)), sampler, 4, seed=0, position=None)
