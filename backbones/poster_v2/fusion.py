"""Fusion of image and landmarks at one scale (Eq. 4-5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance.backbones.poster_v2.attention import (
    WindowCrossAttention,
    merge_windows,
    partition_windows,
)
from reliability_balance.backbones.poster_v2.layers import DropPath, mlp
from reliability_balance.backbones.poster_v2.recompute import run_segment


class FusionMLP(nn.Module):
    r"""Residual connections around cross-attention and around an MLP (Eq. 4-5).

    .. math::
        X' = \gamma_1 W\text{-}MCSA(X) + X, \quad X_O = \gamma_2 MLP(Norm(X')) + X'

    Args:
        width: C.
        mlp_ratio: hidden width of the MLP, as a multiple of C.
        layer_scale: initial value of the factors gamma, which are learned for each channel.
        drop_path: drop probability of each residual branch in training, see :class:`DropPath`.

    Shape:
        - image, attended: (B, H, W, C) floating; returns (B, H, W, C).

    Differs from paper: the factors gamma and drop path are from the published model.

    Example:
        >>> FusionMLP(8)(torch.randn(2, 4, 4, 8), torch.randn(2, 4, 4, 8)).shape
        torch.Size([2, 4, 4, 8])
    """

    def __init__(
        self,
        width: int,
        *,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.gamma1 = nn.Parameter(torch.full((width,), layer_scale))
        self.gamma2 = nn.Parameter(torch.full((width,), layer_scale))
        self.mlp = mlp(width, int(width * mlp_ratio))
        self.norm = nn.LayerNorm(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, image: Tensor, attended: Tensor) -> Tensor:
        """Return X_O of Eq. 5."""
        image = image + self.drop_path(self.gamma1 * attended)
        fused: Tensor = image + self.drop_path(self.gamma2 * self.mlp(self.norm(image)))
        return fused


def cross_fuse(
    image: Tensor,
    landmarks: Tensor,
    norm: nn.Module,
    attention: WindowCrossAttention,
    feed_forward: nn.Module,
    window_size: int,
    *,
    recompute: bool = False,
) -> Tensor:
    """Fuse the two maps of one scale by W-MCSA (Eq. 1-5).

    Args:
        image: the image map, a multiple of the window size in height and width.
        landmarks: the landmark map; it is pooled to one window.
        norm: normalises channels, which come last.
        attention: attention from landmarks to image windows.
        feed_forward: maps image and attended image to the fused map.
        window_size: positions along the side of a window.
        recompute: whether to recompute activations in the backward pass, see :func:`run_segment`.

    Shape:
        - image, landmarks: (B, C, H, W) floating; returns (B, C, H, W).

    Differs from paper: as in the published model, the residual of Eq. 4 is the normalised image.
    """
    image = norm(image.permute(0, 2, 3, 1))
    query = pool_to(landmarks, window_size).flatten(2).transpose(1, 2)
    windows = partition_windows(image, window_size)
    attended = run_segment(attention, windows, query, recompute=recompute)
    merged = merge_windows(attended, window_size, num_columns=image.shape[2] // window_size)
    fused: Tensor = run_segment(feed_forward, image, merged, recompute=recompute)
    return fused.permute(0, 3, 1, 2)


def pool_to(features: Tensor, size: int) -> Tensor:
    """Average-pool a (B, C, H, W) map to `size` x `size`; a map of that size is unchanged."""
    if features.shape[-2:] == (size, size):
        return features
    return F.adaptive_avg_pool2d(features, size)
