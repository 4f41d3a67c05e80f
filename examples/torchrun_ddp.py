"""Train in several processes with DistributedDataParallel and a plain loop.

    torchrun --nproc_per_node 2 -m examples.torchrun_ddp
    torchrun --nproc_per_node 2 -m examples.torchrun_ddp --resume

Each process sees its share of every batch. `RobustLoss` synchronises its state over all processes
and stays outside DistributedDataParallel. Every trained weight gets a gradient, so
`find_unused_parameters` stays off.
"""

import os
from pathlib import Path
from typing import Any

import torch
import typer
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from examples.noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    NoisyImages,
    RateOption,
    accuracy,
    noisy_images,
    report,
)
from examples.result_files import save_tensors
from examples.wrap_classifier import small_cnn
from reliability_balance import RobustLoss, wrap
from reliability_balance.data import IndexedDataset
from reliability_balance.wrapping import WrappedClassifier


def train(
    images: NoisyImages,
    device: torch.device,
    path: Path,
    *,
    resume: bool,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> tuple[WrappedClassifier, RobustLoss]:
    """Train in this process; `batch_size` is the total over all processes."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    wrapped = wrap(small_cnn(images.shape[0], images.num_classes)).to(device)
    model = DistributedDataParallel(wrapped, find_unused_parameters=False)
    criterion = RobustLoss(wrapped, images.labels, epochs=epochs)
    dataset = IndexedDataset(images.train)
    sampler: DistributedSampler[Any] = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size // world_size, sampler=sampler, drop_last=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-3)
    saved: dict[str, Any] = {"model": wrapped, "criterion": criterion, "optimizer": optimizer}
    first = 0
    if resume:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
        first = checkpoint["epoch"]
        for name, part in saved.items():
            part.load_state_dict(checkpoint[name])
    for epoch in range(first, epochs):
        sampler.set_epoch(epoch)
        torch.manual_seed(world_size * epoch + rank)  # for mixing
        for batch in loader:
            pixels, labels, index = (each.to(device) for each in batch)
            loss = criterion(model(pixels), labels, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            states = {name: part.state_dict() for name, part in saved.items()}
            save_tensors(path, {**states, "epoch": epoch + 1})
    return wrapped, criterion


def main(
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.4,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    out: Path = Path("runs/torchrun/checkpoint.pt"),
    resume: bool = False,
) -> None:
    """Train a small CNN on noisy labels in all processes of torchrun."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    torch.manual_seed(0)
    images = noisy_images(data, count=count, rate=rate)
    model, criterion = train(
        images,
        device,
        out,
        resume=resume,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    if distributed.get_rank() == 0:
        report(accuracy(model, images.test), criterion)
    distributed.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
