"""The encoder in three sizes."""

from dataclasses import replace

from typing_extensions import Unpack

from reliability_balance import checks
from reliability_balance.backbones.poster_v2.config import PosterV2Config
from reliability_balance.backbones.poster_v2.encoder import EncoderOptions, PosterV2
from reliability_balance.backbones.poster_v2.published import add_published_rest

BASE = PosterV2Config()
SMALL = PosterV2Config(
    widths=(48, 96, 192),
    heads=(2, 4, 8),
    image_units=(2, 2, 4),
    input_stride=2,
    landmark_width=48,
    landmark_units=(1, 2, 1),
    token_width=384,
    token_heads=6,
    layer_scale=0.1,
    drop_path=0.1,
)
TINY = PosterV2Config(
    image_size=64,
    widths=(16, 32, 64),
    heads=(1, 2, 4),
    image_units=(1, 1, 2),
    input_stride=2,
    landmark_width=16,
    landmark_units=(1, 1, 1),
    token_width=128,
    token_heads=4,
    mlp_ratio=2.0,
    layer_scale=0.1,
    drop_path=0.0,
)


def poster_v2_base(
    *,
    num_classes: int = 7,
    image_size: int = BASE.image_size,
    reduction_dim: int | None = None,
    **options: Unpack[EncoderOptions],
) -> PosterV2:
    """Build the published encoder: 43.8 M active parameters, width 768.

    Its ``state_dict`` has the names and shapes of the published model, plus those of the reduction.
    It includes the classification head, ``VIT.head``, which maps the embedding to the published
    logits, and parts that the published model stores but does not run (14.6 M parameters). All of
    these are frozen.

    The landmark branch is frozen too, and random until you load it: see :func:`load_poster_v2`
    and :func:`load_mobilefacenet`.

    Args:
        num_classes: outputs of the published head: 7, or 8 for AffectNet-8.
        image_size: a multiple of 16. The published weights only fit 112, since they have one
            positional embedding for each position.
        reduction_dim: width of a linear reduction after the encoder, 128 in ARBEx. None: no
            reduction.
        **options: passed to :class:`PosterV2`.

    Raises:
        ValueError: as :class:`PosterV2Config` and :class:`PosterV2` do, and for fewer than two
            classes.

    Example:
        >>> import torch
        >>> backbone = poster_v2_base().eval()
        >>> embedding = backbone(torch.randn(1, 3, 224, 224))
        >>> embedding.shape, backbone.VIT.head(embedding).shape
        (torch.Size([1, 768]), torch.Size([1, 7]))
    """
    checks.at_least("num_classes", num_classes, 2)
    config = replace(BASE, image_size=image_size, reduction_dim=reduction_dim)
    encoder = PosterV2(config, **options)
    add_published_rest(encoder, num_classes)
    return encoder


def poster_v2_small(
    *,
    image_size: int = SMALL.image_size,
    image_channels: int = SMALL.image_channels,
    reduction_dim: int | None = None,
    **options: Unpack[EncoderOptions],
) -> PosterV2:
    """Build an encoder of width 384 to train from scratch, by default with its landmark branch.

    Args:
        image_size: a multiple of 16.
        image_channels: 1 for grey images.
        reduction_dim: width of a linear reduction after the encoder. None: no reduction.
        **options: passed to :class:`PosterV2`; `train_landmarks` is True by default.

    Raises:
        ValueError: as :class:`PosterV2Config` and :class:`PosterV2` do.

    Example:
        >>> import torch
        >>> poster_v2_small()(torch.randn(2, 3, 112, 112)).shape
        torch.Size([2, 384])
    """
    options.setdefault("train_landmarks", True)
    config = replace(
        SMALL, image_size=image_size, image_channels=image_channels, reduction_dim=reduction_dim
    )
    return PosterV2(config, **options)


def poster_v2_tiny(
    *,
    image_size: int = TINY.image_size,
    image_channels: int = TINY.image_channels,
    reduction_dim: int | None = None,
    **options: Unpack[EncoderOptions],
) -> PosterV2:
    """Build an encoder of width 128 that trains from scratch in minutes on two cores.

    Args:
        image_size: a multiple of 16.
        image_channels: 1 for grey images.
        reduction_dim: width of a linear reduction after the encoder. None: no reduction.
        **options: passed to :class:`PosterV2`; `train_landmarks` is True by default.

    Raises:
        ValueError: as :class:`PosterV2Config` and :class:`PosterV2` do.

    Example:
        >>> import torch
        >>> poster_v2_tiny(image_channels=1)(torch.randn(2, 1, 64, 64)).shape
        torch.Size([2, 128])
    """
    options.setdefault("train_landmarks", True)
    config = replace(
        TINY, image_size=image_size, image_channels=image_channels, reduction_dim=reduction_dim
    )
    return PosterV2(config, **options)
