"""Train a LightningModule on noisy labels.

    python -m examples.lightning_training
    torchrun --nproc_per_node 2 -m examples.lightning_training
    python -m examples.lightning_training --resume PATH.ckpt

The criterion is an attribute like any other loss. Lightning's checkpoints include its state, and
with several processes it is synchronised over all of them.
"""

import os
from pathlib import Path

import lightning
import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from examples.noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    RateOption,
    accuracy,
    noisy_images,
    report,
)
from examples.wrap_classifier import small_cnn
from reliability_balance import RobustLoss, wrap
from reliability_balance.data import IndexedDataset


class RobustModule(lightning.LightningModule):
    """LightningModule with a wrapped classifier."""

    def __init__(
        self, classifier: nn.Module, labels: Tensor, *, epochs: int, learning_rate: float
    ) -> None:
        super().__init__()
        self.model = wrap(classifier)
        self.criterion = RobustLoss(self.model, labels, epochs=epochs)
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the loss of a batch from an IndexedDataset."""
        images, labels, index = batch
        loss: Tensor = self.criterion(self.model(images), labels, index)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log the loss and the accuracy of the corrected predictions."""
        images, labels = batch
        output = self.model(images)
        hits = output.corrected.argmax(-1) == labels
        self.log("loss", self.criterion(output, labels), sync_dist=True)
        self.log("accuracy", hits.float().mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW for the trainable parameters."""
        parameters = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=1e-3)


def main(
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.4,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    accelerator: str = "auto",
    out: str = "runs/lightning",
    resume: Path | None = None,
) -> None:
    """Train with Lightning on noisy labels; a checkpoint in --out holds model and criterion."""
    lightning.seed_everything(0, verbose=False)
    images = noisy_images(data, count=count, rate=rate)
    module = RobustModule(
        small_cnn(images.shape[0], images.num_classes),
        images.labels,
        epochs=epochs,
        learning_rate=learning_rate,
    )
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        max_epochs=epochs,
        default_root_dir=out,
    )
    trainer.fit(
        module,
        DataLoader(IndexedDataset(images.train), batch_size, shuffle=True, drop_last=True),
        DataLoader(images.test, 512),
        ckpt_path=resume,
    )
    if trainer.is_global_zero:
        report(accuracy(module.model, images.test), module.criterion)


if __name__ == "__main__":
    typer.run(main)
