"""Reference backbones: modules with an ``embedding_dim`` whose forward gives an embedding.

The balancer does not depend on them: any (B, D) or (B, T, D) embedding will do.
"""

if __name__ != "reliability_balance.backbones":
    # Two import paths would create two classes of each backbone and break isinstance.
    raise ImportError(f"import reliability_balance.backbones, not {__name__}")

from typing import Protocol

from torch import Tensor

from reliability_balance.backbones.identity import Identity
from reliability_balance.backbones.mlp import MLP
from reliability_balance.backbones.poster_v2 import (
    PosterV2,
    load_poster_v2,
    poster_v2_base,
    poster_v2_small,
    poster_v2_tiny,
)
from reliability_balance.backbones.timm_model import TimmBackbone
from reliability_balance.backbones.torchvision_model import TorchvisionBackbone

__all__ = [
    "MLP",
    "Backbone",
    "Identity",
    "PosterV2",
    "TimmBackbone",
    "TorchvisionBackbone",
    "load_poster_v2",
    "poster_v2_base",
    "poster_v2_small",
    "poster_v2_tiny",
]


class Backbone(Protocol):
    """Interface of a backbone: a module that gives embeddings of width ``embedding_dim``."""

    embedding_dim: int

    def __call__(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D), or tokens (B, T, D), with D = ``embedding_dim``."""
        ...
