"""Decode image files; reject files that are damaged, too large or not images."""

import stat
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# A small file can declare an image that exhausts the memory.
PIXEL_LIMIT = 64_000_000
# Pillow's other formats include an interpreter (EPS) and less hardened decoders.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset(
    {
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
        *(".ppm", ".tif", ".tiff", ".webp"),
    }
)
# Files and folders that operating systems and NAS devices create; others have hidden names.
SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"),
    }
)


class CorruptImageError(ValueError):
    """An image file that exists but cannot be decoded; the message names the file."""


def has_image_suffix(name: str) -> bool:
    """Return whether a file name has an image suffix.

    Example:
        >>> has_image_suffix("a.JPG"), has_image_suffix("a.heic")
        (True, False)
    """
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to the operating system.

    Example:
        >>> is_system_name("__MACOSX"), is_system_name("._a.png"), is_system_name("happy")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def decode(path: Path) -> Tensor:
    """Decode one file to (3, H, W) uint8.

    Gray, palette and transparent images become RGB (transparency is dropped), 16 bits become 8, and
    the EXIF orientation is applied.

    Raises:
        CorruptImageError: if its format is not in ``IMAGE_FORMATS``, if it is empty or truncated,
            has more than ``PIXEL_LIMIT`` pixels or floating-point ones, whose range is unknown, or
            is a folder, a pipe or a device.
        FileNotFoundError: if it does not exist.
        PermissionError: if it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("no regular file")  # opening a pipe would block
        with Image.open(path, formats=IMAGE_FORMATS) as file:
            expect_pixels(file.width, file.height)
            pixels = np.array(_in_eight_bits(ImageOps.exif_transpose(file)).convert("RGB"))
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow can raise anything on damaged files
        size = path.stat().st_size if path.is_file() else 0
        raise CorruptImageError(
            f"{path} must be an image that Pillow can decode; got {size} bytes: {error}"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def expect_pixels(width: int, height: int) -> None:
    """Require an image of at most ``PIXEL_LIMIT`` pixels.

    Raises:
        ValueError: if it has more.
    """
    if width * height > PIXEL_LIMIT:
        raise ValueError(f"{width} x {height} pixels, more than {PIXEL_LIMIT:,}")


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits, which Pillow would clip; older versions read it as "I"."""
    if image.mode == "F":
        raise ValueError("floating pixels")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
