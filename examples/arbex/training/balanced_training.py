"""Training and validation as a LightningModule."""

from collections.abc import Iterator
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from examples.arbex.configuration import Optimization
from examples.arbex.face_model import FaceModel
from examples.arbex.training.epoch_batches import FaceBatch, Position, derive_seed
from examples.arbex.training.run_identity import IDENTITY, expect_same_run
from reliability_balance import RobustLoss

LOSS_TERMS = ("loss", "classification", "anchor", "center", "branches")
TRAIN_METRICS = (*LOSS_TERMS, "accuracy", "learning_rate")
VALIDATION_METRICS = ("loss", "accuracy", "primary_accuracy")


class BalancedTraining(lightning.LightningModule):
    """LightningModule that trains a model with RobustLoss, whose state it includes.

    Epoch means are in the state, so that a resumed epoch reports the same means.

    Args:
        model: the model.
        criterion: the loss.
        optimization: optimizer settings.
        seed: of dropout; each step has its own generator state, see
            :mod:`examples.arbex.training.epoch_batches`.
        soft_labels: whether to train on distributions instead of labels.

    Attributes:
        identity: data and configuration, see :func:`run_identity`; stored in the resume point.
    """

    def __init__(
        self,
        model: FaceModel,
        criterion: RobustLoss,
        optimization: Optimization,
        *,
        seed: int,
        soft_labels: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.optimization = optimization
        self.seed = seed
        self.soft_labels = soft_labels
        self.identity: dict[str, Any] = {}
        self.train_means = _means(TRAIN_METRICS)
        self.validation_means = _means(VALIDATION_METRICS)

    def position(self) -> Position:
        """Return the position of the next batch."""
        loop = self.trainer.fit_loop
        # Checkpoints are written before Lightning marks the batch or epoch as completed.
        epoch: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        batch: int = loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        return Position(epoch, 0 if batch >= self.trainer.num_training_batches else batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the run's identity."""
        checkpoint[IDENTITY] = self.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Verify the run's identity; Lightning calls this before it restores anything.

        Raises:
            ValueError: if data or recipe have changed; it names the changes.
        """
        expect_same_run(checkpoint[IDENTITY], self.identity)

    def on_train_batch_start(self, batch: FaceBatch, batch_idx: int) -> None:
        """Seed dropout by the position, so that a resumed run is identical."""
        torch.manual_seed(derive_seed(self.seed, self.global_rank, self.current_epoch, batch_idx))

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch.

        Raises:
            ValueError: if it is not finite, before the weights are updated.
        """
        output = self.model(batch.image)
        labels = batch.distribution if self.soft_labels else batch.label
        loss: Tensor = self.criterion(output, labels, batch.index)
        terms = self.criterion.terms
        for name, value in zip(LOSS_TERMS, terms, strict=True):
            _update(self.train_means, name, value)
        _update(self.train_means, "accuracy", _hits(output.corrected, batch.label))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        _update(self.train_means, "learning_rate", rate)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"the loss must be finite; got {float(loss.detach())} in epoch "
                f"{self.current_epoch + 1}, batch {batch_idx + 1}: lower "
                "optimization.learning_rate"
            )
        return loss

    def on_train_epoch_end(self) -> None:
        """Report the means of the epoch."""
        for name, value in _take(self.train_means):
            self.log(f"train_{name}", value)

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        """Update loss and accuracy on the given labels."""
        output = self.model(batch.image)
        count = len(batch.label)
        loss = nn.functional.nll_loss(output.log_probs, batch.label)
        _update(self.validation_means, "loss", loss, count)
        _update(self.validation_means, "accuracy", _hits(output.corrected, batch.label))
        _update(self.validation_means, "primary_accuracy", _hits(output.primary, batch.label))

    def on_validation_epoch_end(self) -> None:
        """Report the means of the validation set."""
        for name, value in _take(self.validation_means):
            self.log(f"validation_{name}", value)

    def configure_optimizers(self) -> Any:
        """Return Adam with exponential decay of the learning rate (4.3)."""
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.optimization.learning_rate)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.optimization.decay)
        return [optimizer], [scheduler]


def _means(names: tuple[str, ...]) -> nn.ModuleDict:
    means = {name: MeanMetric() for name in names}
    for mean in means.values():
        mean.persistent(True)
    return nn.ModuleDict(means)


def _update(means: nn.ModuleDict, name: str, value: Tensor | float, weight: float = 1.0) -> None:
    cast(MeanMetric, means[name]).update(value, weight)


def _take(means: nn.ModuleDict) -> Iterator[tuple[str, Tensor]]:
    """Yield and reset each mean."""
    for name, mean in means.items():
        metric = cast(MeanMetric, mean)
        yield name, metric.compute()
        metric.reset()


def _hits(probs: Tensor, labels: Tensor) -> Tensor:
    return (probs.argmax(-1) == labels).float()
