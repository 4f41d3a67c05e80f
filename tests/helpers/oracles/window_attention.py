"""Window cross-attention as the equations have it: one window, one head, one position at a time."""

import math

import torch
from torch import Tensor


def window_cross_attention(
    image: Tensor,
    landmarks: Tensor,
    *,
    window_size: int,
    num_heads: int,
    key_value: tuple[Tensor, Tensor],
    output: tuple[Tensor, Tensor],
    bias_table: Tensor | None,
) -> Tensor:
    """Eq. 1-3 on a map (B, H, W, C) with landmark queries (B, w, w, C); returns the merged map."""
    batch, height, width, channels = image.shape
    depth = channels // num_heads
    side = window_size
    merged = torch.zeros_like(image)
    cells = [(row, column) for row in range(side) for column in range(side)]
    for b in range(batch):
        for top in range(0, height, side):
            for left in range(0, width, side):
                keys_values = {
                    (r, c): key_value[0] @ image[b, top + r, left + c] + key_value[1]
                    for r, c in cells
                }
                for r, c in cells:
                    joined = []
                    for head in range(num_heads):
                        part = slice(head * depth, (head + 1) * depth)
                        query = landmarks[b, r, c][part]
                        scores = []
                        for r2, c2 in cells:
                            score = query @ keys_values[r2, c2][:channels][part] / math.sqrt(depth)
                            if bias_table is not None:
                                line = (r - r2 + side - 1) * (2 * side - 1) + (c - c2 + side - 1)
                                score = score + bias_table[line, head]
                            scores.append(score)
                        weights = torch.stack(scores).softmax(0)
                        joined.append(
                            sum(
                                weight * keys_values[cell][channels:][part]
                                for weight, cell in zip(weights, cells, strict=True)
                            )
                        )
                    merged[b, top + r, left + c] = output[0] @ torch.cat(joined) + output[1]
    return merged
