"""Where faces come from: files, or one array that is read from the disk as it is needed."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor


class CorruptImageError(ValueError):
    """An image file that exists but cannot be decoded; the message names the file."""


class ImageSource(Protocol):
    """Images by position, each a uint8 tensor of shape (3, H, W)."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Image at that position."""
        ...


class ImageFiles:
    """Image files of any format that Pillow reads, decoded when they are asked for.

    Gray, palette and transparent images become RGB (transparency is dropped), and a camera's
    orientation tag is obeyed.

    Args:
        root: the folder.
        files: paths within it, one an image.

    Raises:
        CorruptImageError: on access, if a file cannot be decoded.
        FileNotFoundError: on access, if a file is not there.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root = root
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Tensor:
        return decode(self.root / self.files[index])


class ImageArray:
    """A (N, 3, H, W) array of bytes, or a gray one of (N, 1, H, W), mapped from a file or held.

    Args:
        array: of dtype uint8; a memory-mapped ``.npy`` costs no memory before it is read.

    Raises:
        ValueError: on a wrong dtype or shape.
    """

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3):
            raise ValueError(
                "`array` must have dtype uint8 and shape (N, 3, H, W) or (N, 1, H, W); "
                f"got {array.dtype} {array.shape}"
            )
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int, /) -> Tensor:
        image = torch.from_numpy(np.array(self.array[index]))
        return image.expand(3, -1, -1)


def decode(path: Path) -> Tensor:
    """Decode one file to (3, H, W) uint8.

    Raises:
        CorruptImageError: if it is no image, is empty, or is cut short.
        FileNotFoundError: if it is not there.
    """
    try:
        with Image.open(path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError:
        raise
    # What Pillow's decoders raise on damaged files, apart from OSError.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise CorruptImageError(
            f"{path} must be an image that Pillow can decode; got {size} bytes: {error}"
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
