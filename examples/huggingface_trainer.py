"""Train a wrapped transformer with Hugging Face's Trainer on noisy labels.

    python -m examples.huggingface_trainer
    python -m examples.huggingface_trainer --resume

The model is a tiny vision transformer with random weights; nothing is downloaded. Any classifier of
transformers is wrapped in the same way:
`wrap(AutoModelForSequenceClassification.from_pretrained(...))`.
"""

from pathlib import Path
from typing import Any

import torch
import typer
from torch.utils.data import TensorDataset
from transformers import (
    EvalPrediction,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from examples.noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    RateOption,
    noisy_images,
    report,
)
from reliability_balance import wrap
from reliability_balance.integrations.transformers import RobustTrainer


def as_samples(data: TensorDataset) -> list[dict[str, Any]]:
    """Convert to dictionaries with the model's field names."""
    columns = zip(*data.tensors, strict=True)
    return [{"pixel_values": image, "labels": int(label)} for image, label in columns]


def tiny_transformer(image_shape: torch.Size, num_classes: int) -> ViTForImageClassification:
    """Build a small vision transformer with random weights."""
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
    """Return the accuracy of the corrected predictions."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.4,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    out: Path = Path("runs/huggingface"),
    resume: bool = False,
) -> None:
    """Train a tiny vision transformer on noisy labels with the Trainer."""
    torch.manual_seed(0)
    images = noisy_images(data, count=count, rate=rate)
    trainer = RobustTrainer(
        wrap(tiny_transformer(images.shape, images.num_classes)),
        TrainingArguments(
            str(out),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=512,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            report_to=[],
        ),
        train_dataset=as_samples(images.train),
        eval_dataset=as_samples(images.test),
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    report(trainer.evaluate()["eval_accuracy"], trainer.criterion)


if __name__ == "__main__":
    typer.run(main)
