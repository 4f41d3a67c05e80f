"""Images with label noise, shared by the examples."""

from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor
from torch.utils.data import TensorDataset

from examples.image_data import load_images
from examples.wrap_classifier import scale
from reliability_balance import RobustLoss
from reliability_balance.data import symmetric_noise
from reliability_balance.wrapping import WrappedClassifier

DataOption = Annotated[
    Path | None, typer.Option(help="Folder of IDX files, or with a folder of images per class.")
]
CountOption = Annotated[int, typer.Option(min=1, help="Maximum number of training images.")]
RateOption = Annotated[float, typer.Option(min=0, max=1, help="Share of wrong labels.")]
EpochsOption = Annotated[int, typer.Option(min=1)]
BatchOption = Annotated[int, typer.Option(min=2)]


class NoisyImages(NamedTuple):
    """Normalised images with labels, which are noisy in `train`."""

    train: TensorDataset
    test: TensorDataset
    num_classes: int

    @property
    def labels(self) -> Tensor:
        """Return all training labels."""
        return self.train.tensors[1]

    @property
    def shape(self) -> torch.Size:
        """Return channels, height and width of an image."""
        return self.train.tensors[0].shape[1:]


def noisy_images(folder: Path | None, *, count: int, rate: float, seed: int = 0) -> NoisyImages:
    """Load images by :func:`examples.image_data.load_images` and add symmetric label noise."""
    data = load_images(folder, image_size=32, seed=seed)
    num_classes = len(data.class_names)
    chosen = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))[
        :count
    ]
    labels = symmetric_noise(data.train.labels[chosen], rate, num_classes, seed=seed)
    return NoisyImages(
        TensorDataset(scale(data.train.images[chosen]), labels),
        TensorDataset(scale(data.test.images), data.test.labels),
        num_classes,
    )


@torch.inference_mode()
def accuracy(model: WrappedClassifier, test: TensorDataset) -> float:
    """Return the accuracy of the corrected predictions."""
    images, labels = test.tensors
    device = next(model.parameters()).device
    model.eval()
    predicted = [model(part.to(device)).corrected.argmax(-1).cpu() for part in images.split(512)]
    return float((torch.cat(predicted) == labels).float().mean())


def report(test_accuracy: float, criterion: RobustLoss) -> None:
    """Print the accuracy, the estimated noise and the most doubtful labels."""
    print(f"test accuracy {test_accuracy:.4f}")
    doubtful = criterion.doubtful_labels().first(5).sample.tolist()
    print(f"labels estimated to be right: {criterion.noise_matrix.diag().mean():.0%}")
    print(f"most doubtful labels: of samples {', '.join(map(str, doubtful))}")
