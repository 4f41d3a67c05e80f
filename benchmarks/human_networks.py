"""Networks for human labels, and the views of a sample that they get."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from augmentation import cropped_at_center, cropped_at_random, standardised
from small_resnet import small_resnet
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, EMBEDDING_DIM = 256, 128


class Network(NamedTuple):
    """Constructor of a network that ends in a linear layer, and its views of stored inputs.

    `views` gives one or two random views of a batch; `plain` the view for prediction.
    """

    make: Callable[[], nn.Sequential]
    views: Callable[[Tensor, int], list[Tensor]]
    plain: Callable[[Tensor], Tensor]


def residual(channels: int, num_classes: int, *, crop: int, margin: int = 0) -> Network:
    """Return the small residual network on random crops of images (N, channels, H, W) uint8.

    A margin of reflected pixels is added before cropping.
    """

    def make() -> nn.Sequential:
        return small_resnet(channels, num_classes).to(memory_format=torch.channels_last)

    def views(images: Tensor, count: int) -> list[Tensor]:
        pixels = F.pad(standardised(images), [margin] * 4, mode="reflect")
        return [cropped_at_random(pixels, crop) for _ in range(count)]

    return Network(make, views, lambda images: cropped_at_center(standardised(images), crop))


def perceptron(width: int, num_classes: int) -> Network:
    """Return a hidden layer on frozen embeddings (N, 2, width) of images and flipped images."""
    return _of_embeddings(
        lambda: [
            nn.Linear(width, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, EMBEDDING_DIM),
            nn.ReLU(),
            nn.Linear(EMBEDDING_DIM, num_classes),
        ],
        width,
    )


def linear_probe(width: int, num_classes: int) -> Network:
    """Return a linear layer on frozen embeddings (N, 2, width) of images and flipped images."""
    return _of_embeddings(lambda: [nn.Linear(width, num_classes)], width)


def _of_embeddings(layers: Callable[[], list[nn.Module]], width: int) -> Network:
    """Return layers on standardised embeddings; a second view is the flipped image."""

    def make() -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm1d(width, affine=False), *layers())

    def views(embeddings: Tensor, count: int) -> list[Tensor]:
        embeddings = embeddings.float()
        rows = torch.arange(len(embeddings))
        first = torch.randint(2, (len(embeddings),))
        return [embeddings[rows, first], embeddings[rows, 1 - first]][:count]

    return Network(make, views, lambda embeddings: embeddings[:, 0].float())
