"""Cache rendered pictures on disk; they are written atomically and checked when read."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from examples.arbex.faces.image_sources import ImageArray
from examples.result_files import open_result, save_json


def cached_images(
    folder: Path, settings: Mapping[str, object], render: Callable[[], Tensor]
) -> ImageArray:
    """Memory-map the pictures of these settings, rendering them first if necessary.

    The pictures are in ``HASH.npy``, their settings and digest in ``HASH.json``. If either is
    missing, damaged, or does not match the other, both are created again.

    Args:
        folder: the cache; created if necessary.
        settings: everything that the pictures depend on, as JSON values.
        render: returns the (N, 3, H, W) uint8 pictures.
    """
    text = json.dumps(settings, sort_keys=True)
    stem = hashlib.sha256(text.encode()).hexdigest()[:16]
    pixels, note = folder / f"{stem}.npy", folder / f"{stem}.json"
    if not _is_sound(pixels, note, text):
        images = render().numpy()
        with open_result(pixels) as file:
            np.save(file, images)
        save_json(note, {"settings": json.loads(text), "sha256": _digest(pixels)})
    return ImageArray(np.load(pixels, mmap_mode="r"))


def _is_sound(pixels: Path, note: Path, settings: str) -> bool:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        return bool(
            content["settings"] == json.loads(settings) and content["sha256"] == _digest(pixels)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 22):
            digest.update(chunk)
        return digest.hexdigest()
