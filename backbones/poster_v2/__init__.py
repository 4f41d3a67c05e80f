"""The window cross-attention encoder of POSTER++ (ARBEx, section 3.2, Eq. 1-8).

Mao et al., POSTER++, 2023, https://arxiv.org/abs/2301.12149. The weights have the names and shapes
of its published code; the code is our own.
"""

from reliability_balance.backbones.poster_v2.config import PosterV2Config
from reliability_balance.backbones.poster_v2.encoder import EncoderOptions, PosterV2
from reliability_balance.backbones.poster_v2.loading import (
    LoadedPosterV2,
    load_ir50,
    load_mobilefacenet,
    load_poster_v2,
)
from reliability_balance.backbones.poster_v2.mobilefacenet import LandmarkBranch, MobileFaceNet
from reliability_balance.backbones.poster_v2.sizes import (
    poster_v2_base,
    poster_v2_small,
    poster_v2_tiny,
)

__all__ = [
    "EncoderOptions",
    "LandmarkBranch",
    "LoadedPosterV2",
    "MobileFaceNet",
    "PosterV2",
    "PosterV2Config",
    "load_ir50",
    "load_mobilefacenet",
    "load_poster_v2",
    "poster_v2_base",
    "poster_v2_small",
    "poster_v2_tiny",
]
