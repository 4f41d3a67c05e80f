"""Encode images as PNG, with zlib only."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

GRAY, RGB = 0, 2  # colour types of the PNG header


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode a grey or RGB image.

    Args:
        pixels: (H, W) or (H, W, 3) bytes.

    Raises:
        TypeError: if `pixels` is not an array of bytes.
        ValueError: on another shape, or an empty image.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        got = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise TypeError(f"`pixels` must be a uint8 array; got {got}")
    is_gray = pixels.ndim == 2
    if not (is_gray or (pixels.ndim == 3 and pixels.shape[2] == 3)) or 0 in pixels.shape:
        raise ValueError(f"`pixels` must have shape (H, W) or (H, W, 3); got {pixels.shape}")
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    # Each line starts with the type of its filter: 0, none.
    raw = np.hstack([np.zeros((height, 1), np.uint8), lines]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, GRAY if is_gray else RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
