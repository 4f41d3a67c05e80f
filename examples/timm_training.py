"""Train a wrapped timm model as timm's own `train.py` does.

    python -m examples.timm_training --model resnet18 --epochs 10

Augmentation, optimizer and scheduler are timm's. Such a script only needs the lines marked "new".
Do not use timm's mixup: `RobustLoss` has its own and needs the labels as given.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from PIL.Image import Image
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from examples.image_data import LabelledImages, load_images
from examples.noisy_images import (
    BatchOption,
    CountOption,
    DataOption,
    EpochsOption,
    RateOption,
    report,
)
from examples.result_files import save_tensors
from reliability_balance import RobustLoss, wrap  # new
from reliability_balance.data import (
    IndexedDataset,  # new
    symmetric_noise,
)


class PictureDataset(Dataset[tuple[Tensor, int]]):
    """Images, transformed by timm, and labels."""

    def __init__(self, data: LabelledImages, transform: Callable[[Image], Tensor]) -> None:
        self.data = data
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = to_pil_image(self.data.images[index])
        return self.transform(picture), int(self.data.labels[index])


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, ...]],
    criterion: RobustLoss,
    optimizer: torch.optim.Optimizer,
) -> float:
    """Train for one epoch and return the mean loss."""
    model.train()
    losses = AverageMeter()
    for images, labels, index in loader:  # new: index
        loss = criterion(model(images), labels, index)  # new: index
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(images))
    return float(losses.avg)


@torch.inference_mode()
def validate(model: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Return the accuracy of the corrected predictions."""
    model.eval()
    hits = AverageMeter()
    for images, labels in loader:
        predicted = model(images).corrected.argmax(-1)  # new: .corrected
        hits.update((predicted == labels).float().mean().item(), len(labels))
    return float(hits.avg)


def main(
    model: Annotated[str, typer.Option(help="A name in timm.list_models().")] = "test_resnet",
    data: DataOption = None,
    count: CountOption = 10_000,
    rate: RateOption = 0.2,
    epochs: EpochsOption = 5,
    batch_size: BatchOption = 128,
    learning_rate: float = 2e-3,
    image_size: int = 32,
    out: Path = Path("runs/timm/checkpoint.pt"),
) -> None:
    """Train a timm model with random weights on noisy labels."""
    torch.manual_seed(0)
    images = load_images(data, image_size=image_size)
    num_classes, channels = len(images.class_names), images.train.images.shape[1]
    chosen = torch.randperm(len(images.train.labels))[:count]
    labels = symmetric_noise(images.train.labels[chosen], rate, num_classes, seed=0)
    augment, resize = (
        create_transform(
            (channels, image_size, image_size),
            is_training=is_training,
            scale=(0.6, 1.0),
            color_jitter=0.0,
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
            crop_pct=1.0,
        )
        for is_training in (True, False)
    )
    pictures = PictureDataset(LabelledImages(images.train.images[chosen], labels), augment)
    train = DataLoader(IndexedDataset(pictures), batch_size, shuffle=True, drop_last=True)  # new
    test = DataLoader(PictureDataset(images.test, resize), batch_size)

    classifier = timm.create_model(model, num_classes=num_classes, in_chans=channels)
    balanced = wrap(classifier)  # new
    optimizer = create_optimizer_v2(balanced, opt="adamw", lr=learning_rate, weight_decay=0.05)
    scheduler, num_epochs = create_scheduler_v2(optimizer, num_epochs=epochs)
    criterion = RobustLoss(balanced, labels, epochs=num_epochs)  # new
    for epoch in range(num_epochs):
        loss = train_one_epoch(balanced, train, criterion, optimizer)
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss:.3f}, test accuracy {validate(balanced, test):.4f}")
    save_tensors(out, {"model": balanced.state_dict(), "criterion": criterion.state_dict()})
    report(validate(balanced, test), criterion)


if __name__ == "__main__":
    typer.run(main)
