"""Decode image files, and refuse what is no image, is damaged, or is far too large."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# A few bytes can claim to be a picture that fills the memory.
PIXEL_LIMIT = 64_000_000


class CorruptImageError(ValueError):
    """An image file that exists but cannot be decoded; the message names the file."""


def decode(path: Path) -> Tensor:
    """Decode one file to (3, H, W) uint8.

    Gray, palette and transparent images become RGB (transparency is dropped), 16 bits become 8, and
    a camera's orientation tag is obeyed.

    Raises:
        CorruptImageError: if it is no image, is empty or cut short, has more than ``PIXEL_LIMIT``
            pixels, or floating ones, whose range nobody tells.
        FileNotFoundError: if it is not there.
        PermissionError: if it may not be read.
    """
    try:
        with Image.open(path) as file:
            if file.width * file.height > PIXEL_LIMIT:
                raise ValueError(f"{file.width} x {file.height} pixels, more than {PIXEL_LIMIT:,}")
            pixels = np.array(_in_eight_bits(ImageOps.exif_transpose(file)).convert("RGB"))
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders can raise anything on damaged files
        size = path.stat().st_size if path.is_file() else 0
        raise CorruptImageError(
            f"{path} must be an image that Pillow can decode; got {size} bytes: {error}"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, which Pillow would clip and not scale; "I" is how it once read them."""
    if image.mode == "F":
        raise ValueError("floating pixels")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
