"""Train by Ray Train, or without Ray; each rank writes its criterion.

python tests/helpers/ray_state.py FOLDER WORKERS
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from reliability_balance import RobustLoss, wrap
from reliability_balance.core import get_recipe


def train(folder: Path) -> None:
    torch.manual_seed(0)
    is_alone = not distributed.is_initialized()
    rank, world_size = (
        (0, 1) if is_alone else (distributed.get_rank(), distributed.get_world_size())
    )
    labels = torch.arange(48) % 3
    features = torch.randn(48, 4) + 3 * nn.functional.one_hot(labels, 4)
    # No batch norm, no dropout and no mixing, so that nothing depends on how a batch is divided.
    model = wrap(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    recipe = replace(get_recipe("robust"), mixing=None)
    criterion = RobustLoss(model, labels, epochs=3, recipe=recipe)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-2)
    wrapped = model if is_alone else DistributedDataParallel(model)
    for _ in range(3):
        for batch in torch.arange(48).split(8):
            index = batch[rank::world_size]
            loss = criterion(wrapped(features[index]), labels[index], index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        criterion.targets.check_ranks()
    torch.save(criterion.get_extra_state(), folder / f"rank{rank}.pt")


def main(folder: Path, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not workers:
        train(folder)
        return
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(num_cpus=workers, object_store_memory=100 * 2**20)
    TorchTrainer(
        partial(train, folder),
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(storage_path=str(folder / "ray")),
    ).fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
