"""Train a LightningModule on labels of which some are wrong.

    python examples/lightning_training.py
    torchrun --nproc_per_node 2 examples/lightning_training.py

The module is an ordinary one: `wrap` and `ReliabilityLoss` are new in it. The callback learns which
labels to doubt, keeps what it learned in Lightning's checkpoints, and works in several processes.
"""

import os

import lightning
import torch
import typer
from noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    RateOption,
    accuracy,
    noisy_images,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from wrap_classifier import small_cnn

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.lightning import RefurbishLabels
from reliability_balance.targets import RefurbishedTargets


class BalancedClassifier(lightning.LightningModule):
    """An ordinary LightningModule around a wrapped classifier."""

    def __init__(self, classifier: nn.Module, num_classes: int, learning_rate: float) -> None:
        super().__init__()
        self.model = wrap(classifier, num_classes)
        self.criterion = ReliabilityLoss(label_smoothing=0.1)
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the loss; the callback puts its targets in the place of the labels."""
        images, labels, _ = batch
        loss: Tensor = self.criterion(self.model(images), labels).total
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log the accuracy of the corrected predictions."""
        images, labels = batch
        hits = self.model(images).corrected.argmax(-1) == labels
        self.log("accuracy", hits.float().mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW for all that is trained."""
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
) -> None:
    """Train with Lightning on noisy labels; a checkpoint in --out holds model and targets."""
    lightning.seed_everything(0, verbose=False)
    images = noisy_images(data, count=count, rate=rate)
    module = BalancedClassifier(
        small_cnn(images.shape[0], images.num_classes), images.num_classes, learning_rate
    )
    targets = RefurbishedTargets(len(images.train), images.num_classes)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        max_epochs=epochs,
        callbacks=[RefurbishLabels(targets)],
        default_root_dir=out,
    )
    trainer.fit(
        module,
        DataLoader(images.train, batch_size, shuffle=True, drop_last=True),
        DataLoader(images.test, 512),
    )
    if trainer.is_global_zero:
        print(f"test accuracy {accuracy(module.model, images.test):.4f}")
        print(
            f"learned probability that a label is right: {targets.noise_matrix.diag().mean():.2f}"
        )


if __name__ == "__main__":
    typer.run(main)
