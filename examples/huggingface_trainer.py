"""Train a wrapped transformer with the Trainer of Hugging Face.

    python examples/huggingface_trainer.py

A tiny vision transformer with random weights; nothing is downloaded. Any classifier of
transformers is wrapped likewise: `wrap(AutoModelForSequenceClassification.from_pretrained(...))`.
"""

from pathlib import Path
from typing import Any

import torch
import typer
from noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    RateOption,
    noisy_images,
)
from result_files import save_tensors
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import (
    EvalPrediction,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.mixing import mix
from reliability_balance.targets import RefurbishedTargets


class BalancedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the ReliabilityLoss, on refurbished labels.

    Args:
        targets: of the training set, whose samples must each have an "index".
        mixing: concentration of :func:`mix`; None for not.
        mix_from: epochs before mixing begins.
        **options: go to the Trainer.
    """

    def __init__(
        self,
        targets: RefurbishedTargets,
        *,
        mixing: float | None = None,
        mix_from: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.args.max_steps <= 0:
            targets.check_epochs(self.args.num_train_epochs)
        self.mixing = mixing
        self.mix_from = mix_from
        self.criterion = ReliabilityLoss(label_smoothing=0.1)
        self.targets = targets.to(self.args.device)
        # Else the Trainer takes our loss, a mean of its batch, for a sum over accumulated batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and the corrected log-probabilities where the Trainer evaluates."""
        labels, index = inputs.pop("labels"), inputs.pop("index")
        output = model(**inputs)
        if model.training:
            labels = self.targets(index, labels, output.corrected)
            if self.mixing is not None and (self.state.epoch or 0) >= self.mix_from:
                # In several processes `model` is a DistributedDataParallel. It also averages the
                # gradients that weights get from outside of its forward.
                balancer = self.accelerator.unwrap_model(model).balancer
                output, labels = mix(balancer, output.embedding, labels, concentration=self.mixing)
        loss: Tensor = self.criterion(output, labels).total
        return (loss, {"logits": output.log_probs}) if return_outputs else loss


def as_samples(data: TensorDataset) -> list[dict[str, Any]]:
    """Name the fields as the Trainer wants them."""
    images, labels = data.tensors[:2]
    columns = zip(images, labels, range(len(labels)), strict=True)
    return [{"pixel_values": image, "labels": y, "index": i} for image, y, i in columns]


def tiny_transformer(image_shape: torch.Size, num_classes: int) -> ViTForImageClassification:
    """A vision transformer of a few thousand weights."""
    channels, side, _ = image_shape
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=side,
            patch_size=max(1, side // 4),
            num_channels=channels,
            num_labels=num_classes,
        )
    )


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the corrected predictions that are right."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.4,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    out: Path = Path("runs/huggingface"),
) -> None:
    """Train a tiny vision transformer on noisy labels with the Trainer."""
    torch.manual_seed(0)
    images = noisy_images(data, count=count, rate=rate)
    targets = RefurbishedTargets(len(images.train), images.num_classes)
    trainer = BalancedTrainer(
        targets,
        mixing=1.0,
        model=wrap(tiny_transformer(images.shape, images.num_classes), images.num_classes),
        args=TrainingArguments(
            str(out),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=512,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            eval_strategy="epoch",
            save_strategy="no",
            label_names=["labels"],  # the Trainer cannot read them from a wrapped model
            remove_unused_columns=False,  # it would take "index" for one
            report_to=[],
        ),
        train_dataset=as_samples(images.train),
        eval_dataset=as_samples(images.test),
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model()
    save_tensors(out / "targets.pt", targets.state_dict())
    print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.4f}")
    print(f"labels taken for right: {float(targets.noise_matrix.diag().mean()):.0%}")


if __name__ == "__main__":
    typer.run(main)
