"""Detect faces in a picture; needs OpenCV and a file of weights, which the user names."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
from torch import Tensor

MOST_PIXELS = 1280  # per side; larger pictures are scaled down
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


def yunet_detector(weights: Path, least_confidence: float = 0.8) -> Detector:
    """Load YuNet (Wu et al., 2023) for OpenCV, which detects any number of faces, largest first.

    Args:
        weights: ``face_detection_yunet_*.onnx`` of OpenCV's model zoo, which has the MIT licence.
        least_confidence: minimum confidence of a detected face, in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if OpenCV is not installed; nothing else needs it.
        ValueError: if the file does not hold the weights.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "finding faces needs OpenCV: pip install '.[faces]' in the clone, "
            "or leave --detect-faces out for pictures that are cropped to one face"
        ) from error
    if not weights.is_file():
        raise FileNotFoundError(f"`detect_faces` must be the weights of YuNet; got {weights}")
    try:
        network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), least_confidence)
        network.detect(numpy.zeros((320, 320, 3), numpy.uint8))
    except cv2.error as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`detect_faces` must be the weights of YuNet in ONNX; got {weights}: {reason}"
        ) from error

    def detect(picture: Tensor) -> list[Box]:
        _, height, width = picture.shape
        scale = min(1.0, MOST_PIXELS / max(height, width))
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        pixels = cv2.resize(picture.flip(0).permute(1, 2, 0).contiguous().numpy(), size)  # BGR
        network.setInputSize(size)
        _, faces = network.detect(pixels)
        found = [] if faces is None else sorted(faces.tolist(), key=lambda each: -each[2] * each[3])
        corners = [[x, y, x + w, y + h] for x, y, w, h, *_ in found]
        boxes = [square_around([each / scale for each in box], height, width) for box in corners]
        return [box for box in boxes if box.left < box.right and box.top < box.bottom]

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
