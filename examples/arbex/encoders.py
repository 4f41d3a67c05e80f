"""Encoders by name: modules with an ``embedding_dim``, from (B, 3, H, W) to (B, D)."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reliability_balance.backbones import TimmBackbone, TorchvisionBackbone, poster_v2
from reliability_balance.backbones.poster_v2 import MobileFaceNet, PosterV2


class SmallCNN(nn.Module):
    """CNN of four layers, for tests and first experiments.

    Args:
        width: channels of the first layer; each further layer doubles them.

    Shape:
        - images: (B, 3, H, W) floating; returns (B, 8 * width).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
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
    "poster_v2_tiny": poster_v2.poster_v2_tiny,
    "poster_v2_small": poster_v2.poster_v2_small,
    "poster_v2_base": poster_v2.poster_v2_base,
    "timm": TimmBackbone,
    "torchvision": TorchvisionBackbone,
    "small_cnn": SmallCNN,
}


def build_encoder(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build the encoder of that name.

    Raises:
        ValueError: if the name or an option is unknown.
    """
    if name not in ENCODERS:
        raise ValueError(f"`encoder.name` must be one of {', '.join(ENCODERS)}; got {name!r}")
    try:
        return ENCODERS[name](**options)
    except (TypeError, RuntimeError) as error:  # timm raises RuntimeError on an unknown name
        raise ValueError(f"`encoder.options` must fit {name}: {error}") from error


def load_published(encoder: nn.Module, ir50: Path | None, mobilefacenet: Path | None) -> None:
    """Load the pre-trained weights of the paper into a POSTER++ encoder.

    Args:
        encoder: a ``poster_v2_base``, if a file is given.
        ir50: weights of the image branch, or None.
        mobilefacenet: weights of the landmark branch, or None.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if it is another encoder, or the weights do not match.
    """
    if ir50 is None and mobilefacenet is None:
        return
    if not isinstance(encoder, PosterV2):
        raise ValueError(
            "`encoder.ir50` and `encoder.mobilefacenet` need a POSTER++ encoder; "
            f"got {type(encoder).__name__}"
        )
    if ir50 is not None:
        poster_v2.load_ir50(encoder.ir_back, ir50)
    if mobilefacenet is not None:
        branch = encoder.face_landback
        if not isinstance(branch, MobileFaceNet):
            raise ValueError("`encoder.mobilefacenet` needs a MobileFaceNet landmark branch")
        poster_v2.load_mobilefacenet(branch, mobilefacenet)
