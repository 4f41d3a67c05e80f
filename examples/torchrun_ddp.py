"""Train in several processes, by DistributedDataParallel and a plain loop.

    torchrun --nproc_per_node 2 examples/torchrun_ddp.py

Each process sees its share of every batch. `RefurbishedTargets` gathers the shares, so that every
process holds the same targets; it stays outside DistributedDataParallel, which would send its
buffers around. Every trained weight gets a gradient: `find_unused_parameters` stays off.
"""

import os
from pathlib import Path

import torch
import typer
from noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    NoisyImages,
    RateOption,
    accuracy,
    noisy_images,
)
from result_files import save_tensors
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from wrap_classifier import small_cnn

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.mixing import mix
from reliability_balance.targets import RefurbishedTargets
from reliability_balance.wrapping import WrappedClassifier


def train(
    images: NoisyImages, device: torch.device, *, epochs: int, batch_size: int, learning_rate: float
) -> tuple[WrappedClassifier, RefurbishedTargets]:
    """Train this process's part; `batch_size` is that of all processes together."""
    wrapped = wrap(small_cnn(images.shape[0], images.num_classes), images.num_classes).to(device)
    model = DistributedDataParallel(wrapped, find_unused_parameters=False)
    criterion = ReliabilityLoss()
    targets = RefurbishedTargets(len(images.train), images.num_classes).to(device)
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(images.train)
    share = batch_size // distributed.get_world_size()
    loader = DataLoader(images.train, share, sampler=sampler, drop_last=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-3)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in loader:
            pixels, labels, index = (each.to(device) for each in batch)
            output = model(pixels)
            soft = targets(index, labels, output.corrected)
            loss = criterion(*mix(wrapped.balancer, output.embedding, soft)).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return wrapped, targets


def main(
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.4,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    out: Path = Path("runs/torchrun/model.pt"),
) -> None:
    """Train a small CNN on noisy labels in all processes that torchrun started."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    rank = distributed.get_rank()
    torch.manual_seed(rank)  # of mixing; DistributedDataParallel starts all from rank 0's weights
    images = noisy_images(data, count=count, rate=rate)
    model, targets = train(
        images, device, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate
    )
    if rank == 0:
        print(f"test accuracy {accuracy(model, images.test):.4f}")
        print(
            f"learned probability that a label is right: {targets.noise_matrix.diag().mean():.2f}"
        )
        save_tensors(out, {"model": model.state_dict(), "targets": targets.state_dict()})
    distributed.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
