"""Anti-aliased shapes from signed distances, for a batch of pictures.

A shape is a tensor (B, S, S) of signed distances, negative inside. Scalars of a picture are
(B, 1, 1). All operations are elementwise, so thousands of small pictures take seconds on one core.
"""

import torch
from torch import Tensor


def per_picture(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1)."""
    return values[:, None, None]


def ellipse(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """Return the distance to a centred ellipse: exact for circles, else approximate."""
    radius = torch.hypot(x / width, y / height)
    smaller = torch.minimum(torch.as_tensor(width), torch.as_tensor(height))
    return (radius - 1.0) * smaller


def capsule(
    x: Tensor, y: Tensor, length_x: float, length_y: float, radius: Tensor | float
) -> Tensor:
    """Return the distance to a round-ended stroke from the origin to (length_x, length_y)."""
    squared = length_x**2 + length_y**2
    along = ((x * length_x + y * length_y) / squared).clamp(0.0, 1.0)
    return torch.hypot(x - along * length_x, y - along * length_y) - radius


def box(
    x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float, corner: float
) -> Tensor:
    """Return the distance to a centred box with rounded corners."""
    outside_x, outside_y = x.abs() - (width - corner), y.abs() - (height - corner)
    inside = torch.maximum(outside_x, outside_y).clamp_max(0.0)
    return torch.hypot(outside_x.clamp_min(0.0), outside_y.clamp_min(0.0)) + inside - corner


class Canvas:
    """Pictures to paint on.

    Args:
        pixels: (B, 3, S, S) floating, painted in place.
        softness: width of a pixel, and of edges, in the shapes' unit, (B, 1, 1).
    """

    def __init__(self, pixels: Tensor, softness: Tensor) -> None:
        self.pixels = pixels
        self.softness = softness

    def cover(self, distance: Tensor) -> Tensor:
        """Return the share of each pixel inside a shape, (B, S, S) in [0, 1]."""
        return (0.5 - distance / self.softness).clamp_(0.0, 1.0)

    def fill(
        self,
        distance: Tensor,
        color: Tensor,
        *,
        within: Tensor | None = None,
        opacity: Tensor | float = 1.0,
    ) -> Tensor:
        """Paint a shape and return its cover.

        Args:
            distance: (B, S, S).
            color: (B, 3) or (3,).
            within: (B, S, S) cover of another shape that clips this one.
            opacity: in [0, 1], a number or (B, 1, 1).
        """
        cover = self.cover(distance) * opacity
        if within is not None:
            cover = cover * within
        self.pixels.lerp_(color.expand(len(cover), 3)[:, :, None, None], cover.unsqueeze(1))
        return cover
