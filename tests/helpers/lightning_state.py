"""Train by Lightning, alone or under torchrun; each rank writes its criterion.

python tests/helpers/lightning_state.py FOLDER
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from examples.lightning_training import RobustModule
from reliability_balance import RobustLoss
from reliability_balance.core import get_recipe
from reliability_balance.data import IndexedDataset


def main(folder: Path) -> None:
    torch.manual_seed(0)
    rank, world_size = (
        int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1))
    )
    labels = torch.arange(48) % 3
    data = TensorDataset(torch.randn(48, 4) + 3 * nn.functional.one_hot(labels, 4), labels)
    # No batch norm, no dropout and no mixing, so that nothing depends on how a batch is divided.
    classifier = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    module = RobustModule(classifier, labels, epochs=3, learning_rate=3e-2)
    recipe = replace(get_recipe("robust"), mixing=None)
    module.criterion = RobustLoss(module.model, labels, epochs=3, recipe=recipe)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world_size,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # it would shuffle
    )
    # Both ranks' batches of 4 together are the 8 that one process sees.
    sampler = range(rank, 48, world_size)
    trainer.fit(module, DataLoader(IndexedDataset(data), 8 // world_size, sampler=sampler))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(module.criterion.get_extra_state(), folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
