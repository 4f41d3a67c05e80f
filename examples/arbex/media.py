"""Pictures to predict from: an image, a folder of images, or a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from faces.image_sources import CorruptImageError, decode
from torch import Tensor

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


@dataclass(frozen=True)
class Frame:
    """A picture (3, H, W) uint8, or what is wrong with it; seconds are None but for videos."""

    name: str
    picture: Tensor | None
    seconds: float | None = None
    problem: str | None = None


def read_media(path: Path, *, every_seconds: float = 1.0) -> Iterator[Frame]:
    """Read what there is at a path, in order.

    A damaged image of a folder, or a video that breaks off, gives a frame with its problem, so
    that the rest is not lost and nothing is passed over in silence.

    Args:
        path: an image, a video, or a folder, whose images and videos are all read.
        every_seconds: time between two frames of a video that are used; 0 for all frames.

    Raises:
        FileNotFoundError: if there is no such path, or a folder has neither images nor videos.
        ValueError: if the file is neither image nor video, by its name.
    """
    if not path.exists():
        raise FileNotFoundError(f"`source` must be an image, a video or a folder; got {path}")
    if not path.is_dir():
        yield from _read_file(path, path.name, every_seconds)
        return
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(each for each in path.rglob("*") if each.suffix.lower() in suffixes)
    if not files:
        raise FileNotFoundError(f"`source` must hold images or videos; got none in {path}")
    for file in files:
        yield from _read_file(file, str(file.relative_to(path)), every_seconds)


def _read_file(file: Path, name: str, every_seconds: float) -> Iterator[Frame]:
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        try:
            yield Frame(name, decode(file))
        except CorruptImageError as error:
            yield Frame(name, None, problem=str(error))
    elif suffix in VIDEO_SUFFIXES:
        frame = None
        for frame in _read_video(file, name, every_seconds):
            yield frame
        if frame is None:
            yield Frame(name, None, problem=f"{file} must be a video with frames; got none")
    else:
        raise ValueError(
            f"`source` must end in one of {', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}; "
            f"got {file}"
        )


def _read_video(file: Path, name: str, every_seconds: float) -> Iterator[Frame]:
    due = 0.0
    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                seconds = frame.time or 0.0
                if seconds + 1e-6 < due:
                    continue
                due = seconds + every_seconds
                # Phones write sideways, and tell by how many degrees to turn it.
                turns = round(getattr(frame, "rotation", 0) / 90)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns).copy()
                yield Frame(
                    f"{name} @ {seconds:.2f} s",
                    torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
                    seconds,
                )
    except (av.FFmpegError, IndexError, ValueError) as error:
        yield Frame(name, None, problem=f"{file} must be a video that can be decoded: {error}")
