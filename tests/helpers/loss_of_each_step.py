"""Train the tiny model, alone or under torchrun, and write the loss of each step.

python tests/helpers/loss_of_each_step.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

from tiny_training import tiny_recipe, train_tiny

from examples.arbex.training.balanced_training import BalancedTraining  # isort: skip
from torch import Tensor, distributed

losses: list[float] = []
plain_step = BalancedTraining.training_step


def recording_step(self: BalancedTraining, batch: object, batch_idx: int) -> Tensor:
    loss = plain_step(self, batch, batch_idx)
    mean = loss.detach().clone()
    if distributed.is_initialized():
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    losses.append(float(mean))
    return loss


if __name__ == "__main__":
    BalancedTraining.training_step = recording_step
    folder = Path(sys.argv[1])
    recipe = tiny_recipe(
        # Nothing that depends on how a batch is divided: no batch norm, dropout, augmentation or
        # partners to mix with.
        recipe={"num_anchors": 2, "logit_adjustment": False, "mixing": None},
        data={"image_size": 16, "per_class": 24, "augmentation": 0},
        optimization={"epochs": 3, "batch_size": 8, "learning_rate": 0.003},
    )
    train_tiny(folder, recipe)
    if int(os.environ.get("RANK", 0)) == 0:
        (folder / "losses.json").write_text(json.dumps(losses))
