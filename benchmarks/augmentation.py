"""Random crops and flips, for networks that accept images of any size."""

import torch
from torch import Tensor


def standardised(images: Tensor) -> Tensor:
    """Scale (B, channels, H, W) uint8 to float32 of about zero mean and unit variance."""
    pixels = images.float() / 255
    return ((pixels - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def cropped_at_random(images: Tensor, size: int) -> Tensor:
    """Return one random crop of the batch, with half of its images flipped."""
    top, left = torch.randint(images.shape[-1] - size + 1, (2,)).tolist()
    images = images[..., top : top + size, left : left + size]
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return images.flip(-1).where(mirrored, images)


def cropped_at_center(images: Tensor, size: int) -> Tensor:
    """Return the centre crop of each image."""
    margin = (images.shape[-1] - size) // 2
    return images[..., margin : margin + size, margin : margin + size]
