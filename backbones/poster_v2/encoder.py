"""The encoder: fusion of image and landmarks at three scales, then a transformer over all."""

from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance.backbones.poster_v2.attention import WindowCrossAttention
from reliability_balance.backbones.poster_v2.config import PosterV2Config
from reliability_balance.backbones.poster_v2.fusion import FusionMLP, cross_fuse
from reliability_balance.backbones.poster_v2.ir import IRBranch
from reliability_balance.backbones.poster_v2.layers import HalvingConv, named
from reliability_balance.backbones.poster_v2.mobilefacenet import MobileFaceNet
from reliability_balance.backbones.poster_v2.vision_transformer import TokenTransformer


class EncoderOptions(TypedDict, total=False):
    """Keyword arguments of :class:`PosterV2`, for functions that pass them on."""

    landmark_branch: nn.Module | None
    train_landmarks: bool
    tokens: bool
    gradient_checkpointing: bool


class PosterV2(nn.Module):
    """Window cross-attention encoder of POSTER++, which loads the published weights by name.

    .. code-block:: text

        image --+-- ir_back ------ 3 maps -- conv -- window (norm) --+
                +-- face_landback -- 3 maps -- queries --------------+-- attn -- ffn   (1-5)
        3 fused maps -- embed_q, embed_k, embed_v -- VIT (6-8) -- se_block -- reduction -- embedding

    The names of the parts are the published ones. Images are processed channels-last, which is
    faster. ``encoder.to(memory_format=torch.channels_last)`` stores the weights so too, which saves
    copying them in each call: on a GPU, and on a processor for small batches. safetensors, and so
    the checkpoints of Hugging Face, need contiguous weights.

    ``torch.func.jvp`` needs ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``, since torch's
    fused attention has no forward derivative.

    Args:
        config: all sizes.
        landmark_branch: any module that gives three maps, see :class:`LandmarkBranch`. None: a
            MobileFaceNet.
        train_landmarks: False freezes the landmark branch and keeps its batch norm in eval mode,
            also after :meth:`train`. Use this only for a branch with pre-trained weights.
        tokens: False: the embedding. True: the tokens of all scales, with the embedding first.
        gradient_checkpointing: whether to trade time for memory in training: units of the image
            branch, fusions and transformer blocks are recomputed in the backward pass.

    Shape:
        - images: (B, image_channels, H, H) floating, any H; they are resampled to the config's
          `image_size` by nearest neighbour, as in the published model. Returns (B, D), or tokens
          (B, 1 + T, D), with D = ``embedding_dim``.

    Raises:
        TypeError: if images are not floating, or the landmark branch is not a module.
        ValueError: if images are not square or have a wrong number of channels, or if the
            landmark branch has no matching ``widths``.

    Differs from paper: see :class:`WindowCrossAttention`, :class:`FusionMLP`,
    ``cross_fuse`` and ``TransformerBlock``. Where paper and published model differ, we follow the
    published model.

    Reference: Mao et al., POSTER++, 2023, https://arxiv.org/abs/2301.12149.

    Example:
        >>> config = PosterV2Config(
        ...     image_size=32, widths=(8, 16, 32), heads=(1, 1, 1), image_units=(1, 1, 1),
        ...     landmark_width=8, landmark_units=(1, 1, 1), token_width=16, token_heads=2,
        ... )
        >>> PosterV2(config)(torch.randn(2, 3, 40, 40)).shape
        torch.Size([2, 16])
        >>> PosterV2(config, tokens=True)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 13, 16])
    """

    def __init__(
        self,
        config: PosterV2Config,
        *,
        landmark_branch: nn.Module | None = None,
        train_landmarks: bool = False,
        tokens: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.train_landmarks = train_landmarks
        self.tokens = tokens
        self.gradient_checkpointing = gradient_checkpointing
        self.embedding_dim = config.reduction_dim or config.token_width

        if landmark_branch is None:
            landmark_branch = MobileFaceNet(
                image_channels=config.image_channels,
                width=config.landmark_width,
                units=config.landmark_units,
            )
        landmark_widths = _landmark_widths(landmark_branch, config)
        self.face_landback = landmark_branch.requires_grad_(train_landmarks)
        self.ir_back = IRBranch(
            image_channels=config.image_channels,
            widths=config.widths,
            units=config.image_units,
            input_stride=config.input_stride,
            recompute=gradient_checkpointing,
        )
        narrow, middle, wide = config.widths
        self.last_face_conv = nn.Conv2d(landmark_widths[-1], wide, 3, padding=1)

        stride = 2 // config.input_stride
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(width, width, 3, stride, padding=1) for width in config.widths
        )
        self.window1, self.window2, self.window3 = (
            named(norm=nn.LayerNorm(width)) for width in config.widths
        )
        self.attn1, self.attn2, self.attn3 = (
            WindowCrossAttention(width, heads, window_size)
            for width, heads, window_size in zip(
                config.widths, config.heads, config.window_sizes, strict=True
            )
        )
        self.ffn1, self.ffn2, self.ffn3 = (
            FusionMLP(
                width,
                mlp_ratio=config.mlp_ratio,
                layer_scale=config.layer_scale,
                drop_path=drop_path,
            )
            for width, drop_path in zip(config.widths, config.drop_paths, strict=True)
        )

        token_width = config.token_width
        self.embed_q = nn.Sequential(
            nn.Conv2d(narrow, token_width, 3, 2, padding=1),
            HalvingConv(token_width, token_width),
        )
        self.embed_k = nn.Sequential(nn.Conv2d(middle, token_width, 3, 2, padding=1))
        self.embed_v = named(proj=nn.Conv2d(wide, token_width, 1))
        self.VIT = TokenTransformer(
            config.num_tokens,
            width=token_width,
            depth=config.depth,
            num_heads=config.token_heads,
            mlp_ratio=config.mlp_ratio,
            recompute=gradient_checkpointing,
        )
        if config.reduction_dim is None:
            self.reduction: nn.Module = nn.Identity()
        else:
            self.reduction = nn.Linear(token_width, config.reduction_dim)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding e = p(x), or all tokens with it first."""
        images = self._prepare(images)
        first, second, third = self.face_landback(images)
        levels = zip(
            self.ir_back(images),
            (first, second, self.last_face_conv(third)),
            (self.conv1, self.conv2, self.conv3),
            (self.window1, self.window2, self.window3),
            (self.attn1, self.attn2, self.attn3),
            (self.ffn1, self.ffn2, self.ffn3),
            (self.embed_q, self.embed_k, self.embed_v),
            self.config.window_sizes,
            strict=True,
        )
        scales = [
            embed(
                cross_fuse(
                    conv(image),
                    landmarks,
                    norm,
                    attention,
                    feed_forward,
                    window_size,
                    recompute=self.gradient_checkpointing,
                )
            )
            for image, landmarks, conv, norm, attention, feed_forward, embed, window_size in levels
        ]
        all_scales = torch.cat([scale.flatten(2).transpose(1, 2) for scale in scales], dim=1)
        tokens = self.VIT(all_scales, num_results=None if self.tokens else 1)
        gated = self.VIT.se_block(tokens if self.tokens else tokens[:, 0])
        embedding: Tensor = self.reduction(gated)
        return embedding

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but keep a frozen landmark branch in eval mode."""
        super().train(mode)
        if not self.train_landmarks:
            self.face_landback.eval()
        return self

    def extra_repr(self) -> str:
        """Return the settings that the submodules do not show."""
        return f"embedding_dim={self.embedding_dim}, tokens={self.tokens}, config={self.config}"

    def _prepare(self, images: Tensor) -> Tensor:
        channels, size = self.config.image_channels, self.config.image_size
        checks.floating("images", images)
        if images.ndim != 4 or images.shape[1] != channels or images.shape[2] != images.shape[3]:
            raise ValueError(
                f"`images` must have shape (B, {channels}, H, H), square; got {tuple(images.shape)}"
            )
        if images.shape[-1] != size:
            images = F.interpolate(images, size=(size, size))
        # Channels-last, in a way that vmap knows.
        return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _landmark_widths(branch: nn.Module, config: PosterV2Config) -> tuple[int, int, int]:
    """Return the channels of the branch's maps; the first two are used as queries directly."""
    if not isinstance(branch, nn.Module):
        raise TypeError(f"`landmark_branch` must be a torch.nn.Module; got {type(branch).__name__}")
    widths = getattr(branch, "widths", None)
    expected = f"{config.widths[0]}, {config.widths[1]} and any third"
    if not isinstance(widths, tuple) or len(widths) != 3 or widths[:2] != config.widths[:2]:
        raise ValueError(
            f"`landmark_branch` must have `widths`, the channels of its three maps: {expected}; "
            f"got {widths}"
        )
    return widths
