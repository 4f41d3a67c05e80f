"""Train in several processes with Ray Train and the loop of `examples.torchrun_ddp`.

    pip install 'ray[train]'
    python -m examples.ray_training --processes 2
    python -m examples.ray_training --processes 2 --resume

Ray starts its workers at niceness 15: on a busy machine, set RAY_worker_niceness=0.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import distributed

from examples.noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    RateOption,
    accuracy,
    noisy_images,
    report,
)
from examples.torchrun_ddp import train


def train_in_worker(
    data: Path | None, out: Path, *, count: int, rate: float, **options: Any
) -> None:
    """Train as under torchrun: Ray Train has started the processes and their group."""
    torch.manual_seed(0)
    images = noisy_images(data, count=count, rate=rate)
    model, criterion = train(images, get_device(), out, **options)
    if distributed.get_rank() == 0:
        report(accuracy(model, images.test), criterion)


def main(
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.4,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    processes: Annotated[int, typer.Option(min=1)] = 2,
    out: Path = Path("runs/ray/checkpoint.pt"),
    resume: bool = False,
) -> None:
    """Train a small CNN on noisy labels in several workers of Ray Train."""
    work = partial(
        train_in_worker,
        data and data.resolve(),
        out.resolve(),
        count=count,
        rate=rate,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        resume=resume,
    )
    trainer = TorchTrainer(
        work,
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(storage_path=str(out.resolve().parent)),
    )
    trainer.fit()


if __name__ == "__main__":
    typer.run(main)
