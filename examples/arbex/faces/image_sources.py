"""Sources of images: files, or one array, which may be memory-mapped."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from examples.image_files import CorruptImageError, decode

__all__ = ["CorruptImageError", "ImageArray", "ImageFiles", "ImageSource", "decode"]


class ImageSource(Protocol):
    """Interface: images by index, each a uint8 tensor of shape (3, H, W)."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Return the image at that index."""
        ...

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Return bytes that identify the image, by its contents or only its size."""
        ...


class ImageFiles:
    """Image files, decoded on access by :func:`examples.image_files.decode`.

    Args:
        root: the folder.
        files: paths within it, one per image.

    Raises:
        CorruptImageError: on access, if a file cannot be decoded.
        FileNotFoundError: on access, if a file does not exist.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root = root
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Tensor:
        return decode(self.root / self.files[index])

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Return a digest of the file, or its size."""
        path = self.root / self.files[index]
        if not contents:
            return path.stat().st_size.to_bytes(8, "little")
        return blake2b(path.read_bytes(), digest_size=16).digest()


class ImageArray:
    """Images in an array of bytes, (N, 3, H, W) or gray (N, 1, H, W).

    Args:
        array: of dtype uint8; a memory-mapped ``.npy`` uses no memory before it is read.

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

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Return a digest of the pixels."""
        return blake2b(self.array[index].tobytes(), digest_size=16).digest()
