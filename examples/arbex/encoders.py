"""Encoders by name: modules with an ``embedding_dim``, from (B, 3, H, W) to (B, D)."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn




class SmallCNN(nn.Module):
    """Four convolutions: for tests, and for a first look at new data.

    Args:
        width: channels of the first layer; each further layer has twice as many.

    Shape:
        - images: (B, 3, H, W) floating; returns (B, 8 * width).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                nn.GroupNorm(1, outputs),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embedding_dim = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding."""
        embedding: Tensor = self.layers(images)
        return embedding


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
}


def build_encoder(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build the encoder of that name.

    Raises:
        ValueError: if the name or an option is not known.
    """
    if name not in ENCODERS:
        raise ValueError(f"`encoder.name` must be one of {', '.join(ENCODERS)}; got {name!r}")
    try:
        return ENCODERS[name](**options)
    except TypeError as error:
        raise ValueError(f"`encoder.options` must fit {name}: {error}") from error
