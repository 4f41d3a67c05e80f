"""Where faces come from: files, or one array that is read from the disk as it is needed."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from image_files import CorruptImageError, decode
from torch import Tensor

__all__ = ["CorruptImageError", "ImageArray", "ImageFiles", "ImageSource", "decode"]


class ImageSource(Protocol):
    """Images by position, each a uint8 tensor of shape (3, H, W)."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> Tensor:
        """Image at that position."""
        ...

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Bytes that differ where the image does; without `contents`, as far as is known unread."""
        ...


class ImageFiles:
    """Image files of any format that Pillow reads, decoded when they are asked for.

    See :func:`image_files.decode`.

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

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Digest of the file, or its size."""
        path = self.root / self.files[index]
        if not contents:
            return path.stat().st_size.to_bytes(8, "little")
        return blake2b(path.read_bytes(), digest_size=16).digest()


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

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Digest of the pixels, which are at hand."""
        return blake2b(self.array[index].tobytes(), digest_size=16).digest()
