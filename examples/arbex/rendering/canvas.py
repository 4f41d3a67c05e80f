"""Anti-aliased shapes by signed distance, for a batch of pictures at once.

A shape is a tensor (B, S, S) of signed distances, negative inside. Scalars of a picture are
(B, 1, 1). Everything is a handful of elementwise operations, so thousands of small pictures take
seconds on one core.
"""

import torch
from torch import Tensor


def per_picture(values: Tensor) -> Tensor:
    """Bring (B,) to (B, 1, 1)."""
    return values[:, None, None]


def ellipse(x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
    """Distance to an ellipse about the origin, exact for a circle, close near the outline."""
    radius = torch.hypot(x / width, y / height)
    smaller = torch.minimum(torch.as_tensor(width), torch.as_tensor(height))
    return (radius - 1.0) * smaller


def capsule(
    x: Tensor, y: Tensor, length_x: float, length_y: float, radius: Tensor | float
) -> Tensor:
    """Distance to a stroke with round ends from the origin to (length_x, length_y)."""
    squared = length_x**2 + length_y**2
    along = ((x * length_x + y * length_y) / squared).clamp(0.0, 1.0)
    return torch.hypot(x - along * length_x, y - along * length_y) - radius


def box(
    x: Tensor, y: Tensor, width: Tensor | float, height: Tensor | float, corner: float
) -> Tensor:
    """Distance to a box about the origin, with rounded corners."""
    outside_x, outside_y = x.abs() - (width - corner), y.abs() - (height - corner)
    inside = torch.maximum(outside_x, outside_y).clamp_max(0.0)
    return torch.hypot(outside_x.clamp_min(0.0), outside_y.clamp_min(0.0)) + inside - corner


class Canvas:
    """Pictures to paint on.

    Args:
        pixels: (B, 3, S, S) floating, painted in place.
        softness: width of a pixel in the shapes' unit, (B, 1, 1): an edge is as wide.
    """

    def __init__(self, pixels: Tensor, softness: Tensor) -> None:
        self.pixels = pixels
        self.softness = softness

    def cover(self, distance: Tensor) -> Tensor:
        """Share of each pixel inside a shape, (B, S, S) in [0, 1]."""
        return (0.5 - distance / self.softness).clamp_(0.0, 1.0)

    def fill(
        self,
        distance: Tensor,
        color: Tensor,
        *,
        within: Tensor | None = None,
        opacity: Tensor | float = 1.0,
    ) -> Tensor:
        """Paint a shape and return what it covered.

        Args:
            distance: (B, S, S).
            color: (B, 3) or (3,).
            within: (B, S, S) cover of another shape, which the paint does not leave.
            opacity: in [0, 1], a number or (B, 1, 1).
        """
        cover = self.cover(distance) * opacity
        if within is not None:
            cover = cover * within
        self.pixels.lerp_(color.expand(len(cover), 3)[:, :, None, None], cover.unsqueeze(1))
        return cover
