r"""Window cross-attention: landmark queries, image keys and values (Eq. 1-3).

Symbols: B batch, M windows of a map, N positions of a window, C channels, I heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def partition_windows(features: Tensor, window_size: int) -> Tensor:
    """Split a map into windows, row by row.

    Shape:
        - features: (B, H, W, C), H and W multiples of `window_size`; returns (B, M, N, C).

    Example:
        >>> partition_windows(torch.arange(4.0).view(1, 2, 2, 1), 1).flatten()
        tensor([0., 1., 2., 3.])
    """
    grid = features.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))
    windows: Tensor = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return windows


def merge_windows(windows: Tensor, window_size: int, num_columns: int) -> Tensor:
    """Merge windows into a map; the inverse of :func:`partition_windows`.

    Args:
        windows: windows of a map, row by row.
        window_size: positions along the side of a window.
        num_columns: windows along a row of the map.

    Shape:
        - windows: (B, M, N, C); returns (B, H, W, C).

    Example:
        >>> features = torch.randn(2, 4, 6, 3)
        >>> torch.equal(merge_windows(partition_windows(features, 2), 2, 3), features)
        True
    """
    grid = windows.unflatten(1, (-1, num_columns)).unflatten(3, (window_size, window_size))
    features: Tensor = grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return features


def relative_position_index(window_size: int) -> Tensor:
    """Return the index of each pair of positions by its relative offset in rows and columns.

    Shape:
        - returns (N, N) int64 in [0, (2 window_size - 1)^2), N = window_size^2.

    Reference: Liu et al., Swin Transformer, 2021.

    Example:
        >>> relative_position_index(2)[0]
        tensor([4, 3, 1, 0])
    """
    side = torch.arange(window_size)
    positions = torch.cartesian_prod(side, side)
    offset = positions[:, None] - positions[None, :] + window_size - 1
    return offset[..., 0] * (2 * window_size - 1) + offset[..., 1]


class WindowCrossAttention(nn.Module):
    r"""Window cross-attention from landmark queries to each window of an image map (Eq. 1-3).

    .. math::
        o^{(i)} = softmax(q^{(i)} k^{(i)T} / \sqrt d + b) v^{(i)}, \quad
        o = [o^{(1)} \dots o^{(I)}] w_o

    with k = z_img w_k and v = z_img w_v of a window's N image positions, q the N landmark
    positions, d = C / I, and b a learned bias for each head and relative position.

    Args:
        width: C.
        num_heads: I, a divisor of C.
        window_size: positions along the side of a window; N is its square.

    Shape:
        - windows: (B, M, N, C) floating, the image map in windows; query: (B, N, C) floating;
          returns (B, M, N, C).

    State:
        ``relative_position_index`` (N, N) is constant; it is stored since the published weights
        include it.

    Differs from paper: as in the published model there is no w_q; the queries are the landmark
    features themselves. The bias is (I, N, N), one for each pair of positions, where the paper
    prints I x I.

    Example:
        >>> attention = WindowCrossAttention(8, num_heads=2, window_size=3)
        >>> attention(torch.randn(2, 4, 9, 8), torch.randn(2, 9, 8)).shape
        torch.Size([2, 4, 9, 8])
    """

    relative_position_index: Tensor

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window_size - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(width, 2 * width)  # keys and values; the name is the published one
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, query: Tensor) -> Tensor:
        """Return the attended windows, not yet merged."""
        num_windows = windows.shape[1]
        key, value = self.qkv(windows).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        # All windows of a sample share the queries. (B, M) become one dimension, since the fused
        # kernels take four dimensions.
        query = query.unflatten(-1, (self.num_heads, -1))[:, None].expand(
            -1, num_windows, -1, -1, -1
        )
        heads = biased_attention(
            query.flatten(0, 1).transpose(1, 2),
            key.flatten(0, 1).transpose(1, 2),
            value.flatten(0, 1).transpose(1, 2),
            self.position_bias(),
        )
        attended = heads.transpose(1, 2).flatten(-2).unflatten(0, (-1, num_windows))
        output: Tensor = self.proj(attended)
        return output

    def position_bias(self) -> Tensor:
        """Return the bias b of Eq. 2, (I, N, N)."""
        index = self.relative_position_index
        rows = self.relative_position_bias_table.T.index_select(1, index.flatten())
        bias: Tensor = rows.unflatten(1, index.shape)
        return bias


def biased_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + b) v, Eq. 2, for a bias that the whole batch shares.

    Shape:
        - query, key, value: (B, I, N, d) floating; bias: (I, N, N); returns (B, I, N, d).

    Example:
        >>> query, key, value = torch.randn(3, 2, 4, 9, 5)
        >>> biased_attention(query, key, value, torch.randn(4, 9, 9)).shape
        torch.Size([2, 4, 9, 5])
    """
    if torch.is_grad_enabled() and bias.is_cpu:
        # The processor's fused kernel has no gradient for the bias, and its fallback is slower.
        # Under torch.func.grad, `requires_grad` does not tell whether one is needed.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        attended: Tensor = scores.add_(bias).softmax(-1) @ value
        return attended
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
