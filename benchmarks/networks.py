"""Networks without their last layer, and the views of a stored sample that they get."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Network(NamedTuple):
    """Layers before the head, the width of their output, and views of stored inputs.

    `views` gives one or two random views of a batch; `plain` gives the view for prediction.
    """

    layers: Callable[[], nn.Sequential]
    width: int
    views: Callable[[Tensor, int], list[Tensor]]
    plain: Callable[[Tensor], Tensor]


def perceptron(width: int, hidden: tuple[int, int] = (512, 128)) -> Network:
    """Return two hidden layers on vectors (N, width), which are always seen as they are."""
    return Network(
        lambda: hidden_layers(width, *hidden),
        hidden[-1],
        lambda inputs, count: [inputs] * count,
        lambda inputs: inputs,
    )


def hidden_layers(width: int, first: int, second: int) -> nn.Sequential:
    """Build two hidden layers."""
    return nn.Sequential(nn.Linear(width, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())


def perceptron_on_embeddings(width: int) -> Network:
    """Return two hidden layers on frozen embeddings (N, 2, width) of an image and its flip."""
    return Network(
        lambda: nn.Sequential(_standardise(width), *hidden_layers(width, 256, 128)),
        128,
        _plain_or_flipped,
        _plain,
    )


def linear_probe(width: int) -> Network:
    """Return no hidden layer on frozen embeddings (N, 2, width) of an image and its flip."""
    return Network(lambda: nn.Sequential(_standardise(width)), width, _plain_or_flipped, _plain)


def _standardise(width: int) -> nn.Module:
    return nn.BatchNorm1d(width, affine=False)


def _plain_or_flipped(embeddings: Tensor, count: int) -> list[Tensor]:
    embeddings = embeddings.float()
    rows = torch.arange(len(embeddings))
    first = torch.randint(2, (len(embeddings),))
    return [embeddings[rows, first], embeddings[rows, 1 - first]][:count]


def _plain(embeddings: Tensor) -> Tensor:
    return embeddings[:, 0].float()


def residual(channels: int, *, crop: int, margin: int = 0) -> Network:
    """Return a small residual network on random crops of images (N, channels, H, W) uint8.

    A margin of reflected pixels is added before cropping; half of the images are flipped.
    """

    def views(images: Tensor, count: int) -> list[Tensor]:
        pixels = F.pad(_scaled(images), [margin] * 4, mode="reflect")
        return [_cropped_at_random(pixels, crop) for _ in range(count)]

    return Network(
        lambda: residual_layers(channels).to(memory_format=torch.channels_last),
        RESIDUAL_WIDTHS[-1],
        views,
        lambda images: _cropped_at_center(_scaled(images), crop),
    )


RESIDUAL_WIDTHS = (24, 48, 96)


def residual_layers(channels: int) -> nn.Sequential:
    """Build a stem of stride 2, one block per width and average pooling, for about 48 pixels."""
    before, *_ = RESIDUAL_WIDTHS
    layers: list[nn.Module] = [
        nn.Conv2d(channels, before, 3, 2, 1, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU(),
    ]
    for place, width in enumerate(RESIDUAL_WIDTHS):
        layers.append(Block(before, width, 1 if place == 0 else 2))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            if stride > 1 or width_in != width
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return shortcut plus residual."""
        inner = F.relu(self.first_norm(self.first(features)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(features))


def _scaled(images: Tensor) -> Tensor:
    """Scale (B, channels, H, W) uint8 to float32 of about zero mean and unit variance."""
    pixels = images.float() / 255
    return ((pixels - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def _cropped_at_random(images: Tensor, size: int) -> Tensor:
    """Return one random crop of the batch, with half of its images flipped."""
    top, left = torch.randint(images.shape[-1] - size + 1, (2,)).tolist()
    images = images[..., top : top + size, left : left + size]
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return images.flip(-1).where(mirrored, images)


def _cropped_at_center(images: Tensor, size: int) -> Tensor:
    margin = (images.shape[-1] - size) // 2
    return images[..., margin : margin + size, margin : margin + size]
