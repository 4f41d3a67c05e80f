"""Detect faces in a picture; needs facenet-pytorch and its weights."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 0.15  # of the box's side, on each side: the detector cuts chin and forehead


class Box(NamedTuple):
    """A square in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


Detector = Callable[[Tensor], list[Box]]


def whole_picture(picture: Tensor) -> list[Box]:
    """Return the whole (3, H, W) picture as one face, for cropped images."""
    _, height, width = picture.shape
    return [Box(0, 0, width, height)]


def mtcnn_detector(least_confidence: float = 0.9) -> Detector:
    """Load MTCNN (Zhang et al., 2016), which detects any number of faces, largest first.

    Args:
        least_confidence: minimum confidence of a detected face, in [0, 1].

    Raises:
        ImportError: if facenet-pytorch is not installed; nothing else needs it.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ImportError(
            "finding faces needs facenet-pytorch: pip install --no-deps facenet-pytorch, "
            "or leave --detect-faces out for pictures that are cropped to one face"
        ) from error
    network = MTCNN(keep_all=True, select_largest=True)

    def detect(picture: Tensor) -> list[Box]:
        with torch.inference_mode():
            boxes, confidences = network.detect(picture.permute(1, 2, 0).numpy())
        if boxes is None:
            return []
        found = zip(boxes.tolist(), confidences.tolist(), strict=True)
        return [
            square_around(box, picture.shape[1], picture.shape[2])
            for box, confidence in found
            if confidence >= least_confidence
        ]

    return detect


def square_around(box: list[float], height: int, width: int) -> Box:
    """Extend a box (left, top, right, bottom) to a square with a margin, inside the picture."""
    left, top, right, bottom = box
    side = (1 + 2 * MARGIN) * max(right - left, bottom - top)
    x, y = (left + right) / 2, (top + bottom) / 2
    return Box(
        max(0, round(x - side / 2)),
        max(0, round(y - side / 2)),
        min(width, round(x + side / 2)),
        min(height, round(y + side / 2)),
    )
