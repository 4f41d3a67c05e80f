"""Train by the Trainer of Hugging Face under torchrun; each rank writes its state.

python tests/helpers/trainer_state.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from examples.huggingface_trainer import tiny_transformer
from reliability_balance import wrap
from reliability_balance.integrations.transformers import RobustTrainer


def main(folder: Path) -> None:
    torch.manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randn(48, 1, 8, 8) + 2 * labels.view(-1, 1, 1, 1)
    trainer = RobustTrainer(
        wrap(tiny_transformer(images[0].shape, 3), 3),
        TrainingArguments(
            str(folder / "trainer"),
            num_train_epochs=3,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            max_grad_norm=0.0,
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=[{"pixel_values": images[i], "labels": int(labels[i])} for i in range(48)],
    )
    trainer.train(resume_from_checkpoint="--resume" in sys.argv)
    assert trainer.model_wrapped is not trainer.model, "DistributedDataParallel wraps it"
    weights = {name: each.detach() for name, each in trainer.model.named_parameters()}
    state = {"weights": weights, "targets": trainer.criterion.targets.state_dict()}
    torch.save(state, folder / f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
