"""Train by Accelerate, alone or under torchrun; each rank writes its criterion.

python tests/helpers/accelerate_state.py FOLDER
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reliability_balance import RobustLoss, wrap
from reliability_balance.core import get_recipe
from reliability_balance.data import IndexedDataset


def main(folder: Path) -> None:
    torch.manual_seed(0)
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    labels = torch.arange(48) % 3
    data = TensorDataset(torch.randn(48, 4) + 3 * nn.functional.one_hot(labels, 4), labels)
    # No batch norm, no dropout and no mixing, so that nothing depends on how a batch is divided.
    model = wrap(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    recipe = replace(get_recipe("robust"), mixing=None)
    criterion = RobustLoss(model, labels, epochs=3, recipe=recipe)
    trained = [each for each in model.parameters() if each.requires_grad]
    accelerator = Accelerator(cpu=True)
    accelerator.register_for_checkpointing(criterion)
    # It gives each process every second batch: two of 4 are the 8 that one process sees.
    loader = DataLoader(IndexedDataset(data), 8 // world_size)
    wrapped, optimizer, loader = accelerator.prepare(
        model, torch.optim.AdamW(trained, lr=3e-2), loader
    )
    assert accelerator.num_processes == world_size
    for _ in range(3):
        for features, given, index in loader:
            loss = criterion(wrapped(features), given, index)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        criterion.targets.check_ranks()
    accelerator.save_state(str(folder / "checkpoint"))
    torch.save(criterion.get_extra_state(), folder / f"rank{accelerator.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
