"""The Lightning callback does what calling RefurbishedTargets in the training step would do."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.lightning import RefurbishLabels
from reliability_balance.targets import RefurbishedTargets

NUM_SAMPLES, NUM_CLASSES = 24, 3


class RecordingLoss(ReliabilityLoss):
    """Notes the labels that reach it."""

    def forward(self, output, labels):
        self.seen = labels
        return super().forward(output, labels)


class Module(lightning.LightningModule):
    """An ordinary module, or one that calls targets of its own."""

    def __init__(self, *, own_targets=None):
        super().__init__()
        torch.manual_seed(0)
        classifier = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, NUM_CLASSES)
        )
        self.model = wrap(classifier, head="linear", num_anchors=2)
        self.criterion = RecordingLoss()
        self.own_targets = own_targets

    def training_step(self, batch, batch_idx):
        features, labels, index = batch
        output = self.model(features)
        if self.own_targets is not None:
            labels = self.own_targets(index, labels, output.corrected)
        return self.criterion(output, labels).total

    def validation_step(self, batch, batch_idx):
        assert self.criterion.seen.is_floating_point(), "trained on targets"
        self.criterion(self.model(batch[0]), batch[1])
        assert torch.equal(self.criterion.seen, batch[1]), "judged by labels"
        self.criterion.seen = torch.empty(0)

    def configure_optimizers(self):
        trained = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.SGD(trained, lr=0.1)


def loader():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(NUM_SAMPLES, 4, generator=generator)
    labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=generator)
    return DataLoader(TensorDataset(features, labels, torch.arange(NUM_SAMPLES)), 8)


def targets():
    return RefurbishedTargets(NUM_SAMPLES, NUM_CLASSES, warmup=1)


def fit(module, *callbacks, epochs=3, folder=None, validate=False, resume=None, data=None):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data or loader(), loader() if validate else None, ckpt_path=resume)
    return trainer


def assert_equal_states(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_it_is_the_same_as_calling_the_targets():
    plain = Module(own_targets=targets())
    fit(plain)
    callback, module = RefurbishLabels(targets()), Module()
    fit(module, callback)
    assert_equal_states(callback.targets, plain.own_targets)
    assert_equal_states(module.model, plain.model)
    assert int(callback.targets.updates.min()) == 3


def test_validation_sees_the_labels():
    fit(Module(), RefurbishLabels(targets()), validate=True)


def test_a_checkpoint_brings_the_targets_back(tmp_path):
    whole_callback, whole = RefurbishLabels(targets()), Module()
    fit(whole, whole_callback, epochs=4)
    half_callback, half = RefurbishLabels(targets()), Module()
    fit(half, half_callback, epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    callback, module = RefurbishLabels(targets()), Module()
    fit(module, callback, epochs=4, resume=tmp_path / "half.ckpt")
    assert_equal_states(callback.targets, whole_callback.targets)
    assert_equal_states(module.model, whole.model)
    assert not torch.equal(half_callback.targets.average, callback.targets.average)


def test_the_loss_is_left_as_it_was():
    module = Module()
    hooks = len(module.criterion._forward_pre_hooks)
    fit(module, RefurbishLabels(targets()))
    assert len(module.criterion._forward_pre_hooks) == hooks

    class Failing(RefurbishLabels):
        def on_train_batch_end(self, *args):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(module, Failing(targets()))
    assert len(module.criterion._forward_pre_hooks) == hooks


def test_the_index_is_found_elsewhere():
    callback = RefurbishLabels(targets(), index_of=lambda batch: NUM_SAMPLES - 1 - batch[2])
    fit(Module(), callback, epochs=2)
    usual = RefurbishLabels(targets())
    fit(Module(), usual, epochs=2)
    assert torch.equal(callback.targets.average.flip(0), usual.targets.average)


def test_a_loss_of_another_form_is_refused():
    class Other(Module):
        def training_step(self, batch, batch_idx):
            return self.criterion(output=self.model(batch[0]), labels=batch[1]).total

    with pytest.raises(TypeError, match=r"`criterion` 'criterion' must be called with"):
        fit(Other(), RefurbishLabels(targets()))
    with pytest.raises(AttributeError, match="loss_function"):
        fit(Module(), RefurbishLabels(targets(), criterion="loss_function"))


class TwoFields(Module):
    """Its batches are (inputs, labels), as most are."""

    def training_step(self, batch, batch_idx):
        return self.criterion(self.model(batch[0]), batch[1]).total


def two_fields(**options):
    return DataLoader(TensorDataset(*loader().dataset.tensors[:2]), 8, **options)


@pytest.mark.parametrize("cast", [lambda labels: labels, torch.clone])
def test_labels_are_not_taken_for_an_index(cast):
    callback = RefurbishLabels(targets(), index_of=lambda batch: cast(batch[-1]))
    with pytest.raises(ValueError, match=r"`index` must be each sample's place.*got the labels"):
        fit(TwoFields(), callback, data=two_fields(shuffle=True))
    assert not bool(callback.targets.updates.any())


def test_the_default_takes_no_labels_for_an_index():
    with pytest.raises(ValueError, match="got the labels"):
        fit(TwoFields(), RefurbishLabels(targets()), data=two_fields())


def test_a_batch_without_a_last_field_needs_index_of():
    class Named(Module):
        def training_step(self, batch, batch_idx):
            return self.criterion(self.model(batch["x"]), batch["y"]).total

    features, labels, index = loader().dataset.tensors
    rows = [{"x": features[i], "y": labels[i], "i": i} for i in index.tolist()]
    with pytest.raises(TypeError, match=r"`index_of` must be given .* of type dict"):
        fit(Named(), RefurbishLabels(targets()), data=DataLoader(rows, 8))
    callback = RefurbishLabels(targets(), index_of=lambda batch: batch["i"])
    fit(Named(), callback, data=DataLoader(rows, 8))
    assert bool((callback.targets.updates == 3).all())


def test_an_index_that_names_groups_is_refused_after_an_epoch():
    """It goes with the labels, so no label changes; but most samples are never seen."""
    features, _, index = loader().dataset.tensors
    groups = TensorDataset(features, index % NUM_CLASSES, index % 6)
    with pytest.raises(ValueError, match=r"`index_of` must .* 6 different ones of 24"):
        fit(Module(), RefurbishLabels(targets()), data=DataLoader(groups, 8, shuffle=True))
    weighted = torch.utils.data.WeightedRandomSampler([0.0] * 5 + [1.0] + [0.0] * 18, 24)
    fit(Module(), RefurbishLabels(targets()), data=DataLoader(groups, 8, sampler=weighted))


@pytest.mark.parametrize(
    "index_of",
    [
        lambda batch: torch.arange(len(batch[1])),  # the place in the batch
        lambda batch: batch[2] % 12,  # each of two workers counts from 0
        lambda batch: torch.zeros_like(batch[2]),
    ],
)
def test_an_index_that_restarts_meets_other_labels(index_of):
    with pytest.raises(ValueError, match=r"`labels` must be those that the samples .* had before"):
        fit(Module(), RefurbishLabels(targets(), index_of=index_of))


def test_an_index_in_shuffled_order_meets_other_labels():
    class Counting(RefurbishLabels):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            self._index = batch_idx * 8 + torch.arange(len(batch[1]))

    torch.manual_seed(0)
    data = DataLoader(loader().dataset, 8, shuffle=True)
    with pytest.raises(ValueError, match=r"`labels` must be those that the samples .* had before"):
        fit(Module(), Counting(targets()), data=data)


@pytest.mark.parametrize("calls", [2, 3])
def test_several_calls_in_a_step_are_one_update(calls):
    class Views(Module):
        def training_step(self, batch, batch_idx):
            features, labels, _ = batch
            first = self.criterion(self.model(features), labels).total
            others = [self.criterion(self.model(-features), labels) for _ in range(calls - 1)]
            return first + 0 * sum(each.total for each in others)

    callback, once = RefurbishLabels(targets()), RefurbishLabels(targets())
    fit(Views(), callback)
    fit(Module(), once)
    assert_equal_states(callback.targets, once.targets)


def test_a_training_within_the_warm_up_is_refused(tmp_path):
    long = RefurbishedTargets.for_long_training(NUM_SAMPLES, NUM_CLASSES)
    with pytest.raises(ValueError, match="`epochs` must exceed the targets' warm-up of 10 updates"):
        fit(Module(), RefurbishLabels(long), epochs=6)
    debugging = lightning.Trainer(
        accelerator="cpu", fast_dev_run=True, callbacks=[RefurbishLabels(long)], logger=False
    )
    debugging.fit(Module(), loader())
    half = fit(Module(), RefurbishLabels(targets()), epochs=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    # One epoch more is enough: the state counts.
    fit(Module(), RefurbishLabels(targets()), epochs=3, resume=tmp_path / "half.ckpt")
