"""Decode image files, and refuse what is no image, is damaged, or is far too large."""

import stat
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# A few bytes can claim to be a picture that fills the memory.
PIXEL_LIMIT = 64_000_000
# Pillow's others include an interpreter (EPS), and decoders that few have tried to break.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset(
    {
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
        *(".ppm", ".tif", ".tiff", ".webp"),
    }
)
# What operating systems and disk stations leave among files; hidden names are the rest.
SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"),
    }
)


class CorruptImageError(ValueError):
    """An image file that exists but cannot be decoded; the message names the file."""


def has_image_suffix(name: str) -> bool:
    """Whether a file's name ends as those of images do.

    Example:
        >>> has_image_suffix("a.JPG"), has_image_suffix("a.heic")
        (True, False)
    """
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def is_system_name(name: str) -> bool:
    """Whether a file or folder is the operating system's, or hidden, and so nobody's data.

    Example:
        >>> is_system_name("__MACOSX"), is_system_name("._a.png"), is_system_name("happy")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def decode(path: Path) -> Tensor:
    """Decode one file to (3, H, W) uint8.

    Gray, palette and transparent images become RGB (transparency is dropped), 16 bits become 8, and
    a camera's orientation tag is obeyed.

    Raises:
        CorruptImageError: if it is none of ``IMAGE_FORMATS``, is empty or cut short, has more than
            ``PIXEL_LIMIT`` pixels, or floating ones, whose range nobody tells; or if it is a
            folder, a pipe or a device.
        FileNotFoundError: if it is not there.
        PermissionError: if it may not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("no regular file")  # to open a pipe would wait for its other end
        with Image.open(path, formats=IMAGE_FORMATS) as file:
            expect_pixels(file.width, file.height)
            pixels = np.array(_in_eight_bits(ImageOps.exif_transpose(file)).convert("RGB"))
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders can raise anything on damaged files
        size = path.stat().st_size if path.is_file() else 0
        raise CorruptImageError(
            f"{path} must be an image that Pillow can decode; got {size} bytes: {error}"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def expect_pixels(width: int, height: int) -> None:
    """Require a picture of no more than ``PIXEL_LIMIT`` pixels.

    Raises:
        ValueError: if it has more.
    """
    if width * height > PIXEL_LIMIT:
        raise ValueError(f"{width} x {height} pixels, more than {PIXEL_LIMIT:,}")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, which Pillow would clip and not scale; "I" is how it once read them."""
    if image.mode == "F":
        raise ValueError("floating pixels")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
