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


def fit(module, *callbacks, epochs=3, folder=None, validate=False, resume=None):
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
    trainer.fit(module, loader(), loader() if validate else None, ckpt_path=resume)
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
    fit(Module(), callback, epochs=1)
    usual = RefurbishLabels(targets())
    fit(Module(), usual, epochs=1)
    assert torch.equal(callback.targets.average.flip(0), usual.targets.average)


def test_a_loss_of_another_form_is_refused():
    class Other(Module):
        def training_step(self, batch, batch_idx):
            return self.criterion(output=self.model(batch[0]), labels=batch[1]).total

    with pytest.raises(TypeError, match=r"`criterion` 'criterion' must be called with"):
        fit(Other(), RefurbishLabels(targets()))
    with pytest.raises(AttributeError, match="loss_function"):
        fit(Module(), RefurbishLabels(targets(), criterion="loss_function"))
