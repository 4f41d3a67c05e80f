"""The data refinement sampler: its errors, its randomness, and its place in a loader."""

from unittest import mock

import numpy as np
import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader, TensorDataset

from reliability_balance.data import DataRefinementSampler, limit_per_key

LABELS = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
GROUPS = torch.arange(100) % 7


def test_epochs_and_seeds_differ_and_repeat():
    def epoch(number, seed=0):
        sampler = DataRefinementSampler(LABELS, GROUPS, per_class=8, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


def test_every_row_of_a_group_is_as_likely():
    keys = np.zeros(10, dtype=np.int64)
    generator = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(4000):
        counts[limit_per_key(keys, 3, generator)] += 1
    # Binomial with n = 4000, p = .3: five standard deviations are 145.
    assert np.abs(counts - 1200).max() < 145


def test_a_dominant_group_is_held_back():
    labels = torch.zeros(1000, dtype=torch.int64)
    groups = torch.tensor([0] * 990 + [1] * 10)
    rows = list(DataRefinementSampler(labels, groups, per_group=10, per_class=20))
    assert sorted(groups[rows].tolist()) == [0] * 10 + [1] * 10


def test_without_groups_only_classes_are_balanced():
    rows = list(DataRefinementSampler(LABELS, None, per_class=15))
    assert LABELS[rows].bincount().tolist() == [15, 15, 15]


def test_short_classes_are_kept_short_on_demand():
    sampler = DataRefinementSampler(LABELS, GROUPS, per_class=15, short_classes="keep")
    assert LABELS[list(sampler)].bincount().tolist() == [15, 15, 10]
    assert len(sampler) == 40


def test_a_loader_takes_it():
    sampler = DataRefinementSampler(LABELS, GROUPS, per_class=4)
    loader = DataLoader(TensorDataset(LABELS), batch_size=4, sampler=sampler)
    assert len(loader) == 3
    assert torch.cat([labels for (labels,) in loader]).bincount().tolist() == [4, 4, 4]


def recording_module(lightning):
    """A module that notes the rows that it is trained on, and learns nothing."""

    class RecordingModule(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.rows = []

        def training_step(self, batch, batch_idx):
            self.rows += batch[0].tolist()
            return self.layer(torch.zeros(1, 1)).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return RecordingModule()


@mock.patch.dict("os.environ")  # where Lightning notes ranks
def test_lightning_does_not_split_a_rank_s_share_once_more(tmp_path):
    lightning = pytest.importorskip("lightning")
    sampler = DataRefinementSampler(LABELS, GROUPS, per_class=8, num_replicas=2, rank=1)
    module = recording_module(lightning)
    loader = DataLoader(TensorDataset(torch.arange(100)), 4, sampler=sampler)
    # A group of one is enough for Lightning to put its own sampler in the place of others.
    meeting = f"file://{tmp_path / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, loader)
    finally:
        distributed.destroy_process_group()
    assert trainer.train_dataloader.sampler is sampler
    other = DataRefinementSampler(LABELS, GROUPS, per_class=8, num_replicas=2, rank=1)
    expected = []
    for epoch in range(2):
        other.set_epoch(epoch)
        expected += list(other)
    assert module.rows == expected


def test_a_repeated_sample_can_come_to_several_ranks():
    labels = torch.tensor([0] * 8 + [1])
    for rank in range(2):
        sampler = DataRefinementSampler(labels, None, per_class=8, num_replicas=2, rank=rank)
        assert 8 in list(sampler)


def test_breaking_off_does_not_shorten_the_next_pass():
    sampler = DataRefinementSampler(LABELS, GROUPS, per_class=4)
    iterator = iter(sampler)
    begun = [next(iterator), next(iterator)]
    whole = list(sampler)
    assert whole[:2] == begun
    assert len(whole) == len(sampler) == 12


def test_memory_is_narrow():
    sampler = DataRefinementSampler(LABELS + 10**12, GROUPS, per_class=4)
    assert sampler._labels.itemsize == sampler._groups.itemsize == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"labels": LABELS.float()},
            TypeError,
            "`labels` must be an int64 tensor; got torch.float32",
        ),
        ({"groups": GROUPS.int()}, TypeError, "`groups` must be an int64 tensor; got torch.int32"),
        ({"groups": GROUPS[:5]}, ValueError, "same length, at least 1; got 100 and 5"),
        ({"labels": LABELS[:0], "groups": None}, ValueError, "at least 1; got 0 and 0"),
        ({"labels": LABELS - 1}, ValueError, "`labels` must be at least 0; got -1"),
        ({"per_group": 0}, ValueError, "`per_group` must be at least 1; got 0"),
        ({"per_class": 1.5}, TypeError, "`per_class` must be an int; got float"),
        ({"short_classes": "drop"}, ValueError, "`short_classes` must be one of"),
        ({"num_replicas": 2, "rank": 2}, ValueError, "`rank` must be less than 2; got 2"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0; got -1"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {"labels": LABELS, "groups": GROUPS} | change
    with pytest.raises(error, match=message):
        DataRefinementSampler(arguments.pop("labels"), arguments.pop("groups"), **arguments)


def test_a_state_of_another_seed_is_refused():
    sampler = DataRefinementSampler(LABELS, GROUPS)
    with pytest.raises(ValueError, match="`state` must have seed 0; got 3"):
        sampler.load_state_dict({"seed": 3, "epoch": 0, "position": 0})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"position": 21}, ValueError, "`position` must be at most 20, .* epoch 2 .*; got 21"),
        ({"position": 10**9}, ValueError, "`position` must be at most 20"),
        ({"position": -1}, ValueError, "`position` must be at least 0; got -1"),
        ({"position": 3.0}, TypeError, "`position` must be an int; got float"),
        ({"position": None}, TypeError, "`position` must be an int"),
        ({"epoch": -1}, ValueError, "`epoch` must be at least 0; got -1"),
        ({"epoch": 1.5}, TypeError, "`epoch` must be an int; got float"),
        ({"seed": True}, TypeError, "`seed` must be an int; got bool"),
        ({"rank": 0}, ValueError, r"`state` must hold seed, epoch and position; got \['epoch'"),
    ],
)
def test_an_impossible_state_is_refused_and_changes_nothing(change, error, message):
    def sampler():
        return DataRefinementSampler(
            torch.arange(60) % 2, None, per_class=20, num_replicas=2, rank=1
        )

    given, kept = sampler(), sampler()
    for each in (given, kept):
        each.set_epoch(1)
        rows = iter(each)
        next(rows)
    with pytest.raises(error, match=message):
        given.load_state_dict({"seed": 0, "epoch": 2, "position": 4, **change})
    assert given.state_dict() == kept.state_dict()
    assert list(given) == list(kept)
    for missing in ({"seed": 0, "epoch": 1}, None, [0, 1, 2]):
        with pytest.raises(ValueError, match="`state` must hold seed, epoch and position; got"):
            given.load_state_dict(missing)


def test_a_state_at_the_end_of_an_epoch_has_nothing_left():
    sampler = DataRefinementSampler(torch.arange(60) % 2, None, per_class=20)
    sampler.load_state_dict({"seed": 0, "epoch": 2, "position": 40})
    assert list(sampler) == []
    assert len(list(sampler)) == 40
