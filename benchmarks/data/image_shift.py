"""Covariate shift: corruptions of images in five strengths."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

BLUR_WIDTH = 9  # pixels of the kernel


def noisy(images: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise with this standard deviation, of a range of 1; always the same draws."""
    draws = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + 255 * sigma * draws).round().clamp(0, 255).byte()


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian with this standard deviation, in pixels."""
    result: Tensor = TF.gaussian_blur(images, [BLUR_WIDTH, BLUR_WIDTH], [sigma, sigma])
    return result


def compressed(images: Tensor, quality: int) -> Tensor:
    """Compress each image as JPEG."""
    return torch.stack([TF.jpeg(image, quality) for image in images])


SHIFTS: Mapping[str, tuple[Callable[[Tensor, Any], Tensor], tuple[float, ...]]] = {
    "noise": (noisy, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "blur": (blurred, (0.5, 0.75, 1.0, 1.5, 2.0)),
    "contrast": (TF.adjust_contrast, (0.8, 0.6, 0.4, 0.3, 0.2)),
    "JPEG": (compressed, (50, 30, 20, 10, 5)),
    "brightness": (TF.adjust_brightness, (0.8, 0.6, 0.4, 0.3, 0.2)),
}
"""Corruptions of images (N, 1 or 3, H, W) uint8, and what each strength passes to them."""


def shifted(images: Tensor) -> dict[tuple[str, int], Callable[[], Tensor]]:
    """Return functions that corrupt the images, by corruption and strength, from 1 on."""
    return {
        (name, strength): partial(corrupt, images, value)
        for name, (corrupt, values) in SHIFTS.items()
        for strength, value in enumerate(values, start=1)
    }
