"""Train the tiny model with batch norm under torchrun, and write the buffers of each process.

torchrun --nproc_per_node 2 tests/helpers/buffers_of_each_rank.py FOLDER
"""

import os
import sys
from pathlib import Path

from tiny_training import tiny_recipe, train_tiny

import torch  # isort: skip
from examples.arbex.training.balanced_training import BalancedTraining  # isort: skip


def write_buffers(self: BalancedTraining) -> None:
    learned = self.criterion.targets.state_dict()
    buffers = {name: buffer.clone() for name, buffer in self.named_buffers()}
    buffers |= {f"targets.{name}": buffer.clone() for name, buffer in learned.items()}
    torch.save(buffers, Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")


if __name__ == "__main__":
    BalancedTraining.on_fit_end = write_buffers
    # Its head has batch norm.
    train_tiny(Path(sys.argv[1]), tiny_recipe(epochs=2))
