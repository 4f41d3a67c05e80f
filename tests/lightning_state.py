"""Train by Lightning, alone or under torchrun; each rank writes its refurbished targets.

python tests/lightning_state.py FOLDER
"""

import os
import sys
from pathlib import Path

import lightning
import torch
from lightning_training import BalancedClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reliability_balance.lightning import RefurbishLabels
from reliability_balance.targets import RefurbishedTargets


def main(folder: Path) -> None:
    torch.manual_seed(0)
    rank, world_size = (
        int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1))
    )
    data = TensorDataset(torch.randn(24, 4), torch.randint(3, (24,)), torch.arange(24))
    # No batch norm and no dropout, so that nothing depends on how a batch is divided.
    classifier = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    module = BalancedClassifier(classifier, 3, learning_rate=1e-2)
    module.model.balancer.head = nn.Linear(8, 3)
    callback = RefurbishLabels(RefurbishedTargets(24, 3, warmup=1))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world_size,
        max_epochs=3,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # it would shuffle
    )
    # Both ranks' batches of 4 together are the 8 that one process sees.
    trainer.fit(module, DataLoader(data, 8 // world_size, sampler=range(rank, 24, world_size)))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(callback.targets.state_dict(), folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
