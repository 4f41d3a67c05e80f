"""RobustLoss as an attribute of a LightningModule: nothing else is needed, to resume neither."""

import lightning
import pytest
import torch
from equal_states import assert_equal_states
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from reliability_balance import RobustLoss, wrap
from reliability_balance.data import IndexedDataset

COUNT, EPOCHS = 96, 4
LABELS = torch.arange(COUNT) % 3
FEATURES = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(1))
DATA = TensorDataset(FEATURES + 3 * nn.functional.one_hot(LABELS, 4), LABELS)


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = wrap(
            nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 3))
        )
        self.criterion = RobustLoss(self.model, LABELS, epochs=EPOCHS)

    def on_train_batch_start(self, batch, batch_idx):
        torch.manual_seed(self.global_step)  # Lightning's checkpoints leave generators out

    def training_step(self, batch, batch_idx):
        features, labels, index = batch
        return self.criterion(self.model(features), labels, index)

    def validation_step(self, batch, batch_idx):
        features, labels = batch
        self.log("loss", self.criterion(self.model(features), labels))

    def configure_optimizers(self):
        trained = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.AdamW(trained, lr=0.03)


class Kill(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 2 and batch_idx == 1:
            raise RuntimeError("power cut")


def fit(folder, *callbacks, resume=None):
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[*callbacks, ModelCheckpoint(folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    dataset = IndexedDataset(DATA)
    # Its order depends on the epoch alone; that of shuffle=True on how often torch drew before.
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0)
    loader = DataLoader(dataset, 16, sampler=sampler)
    trainer.fit(module, loader, DataLoader(DATA, 32), ckpt_path=resume)
    return module, trainer


def test_a_killed_training_resumes_bit_equal(tmp_path):
    whole, trainer = fit(tmp_path / "whole")
    assert whole.criterion.progress == EPOCHS, "validation must not count"
    assert not whole.criterion.caution, "labels are doubted"
    assert "loss" in trainer.callback_metrics
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "killed", Kill())
    checkpoint = tmp_path / "killed" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    resumed, _ = fit(tmp_path / "resumed", resume=checkpoint)
    assert_equal_states(whole.state_dict(), resumed.state_dict())


def test_the_criterion_holds_no_weights_and_no_buffers():
    module = Module()
    assert not list(module.criterion.parameters())
    assert not list(module.criterion.buffers())
