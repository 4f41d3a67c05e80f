"""Pictures to predict from: an image, a folder of images, or a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from examples.arbex.faces.image_sources import CorruptImageError, decode
from examples.image_files import IMAGE_SUFFIXES, PIXEL_LIMIT, expect_pixels, is_system_name

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


@dataclass(frozen=True)
class Frame:
    """A picture (3, H, W) uint8, or its problem; ``seconds`` are None except for videos."""

    name: str
    picture: Tensor | None
    seconds: float | None = None
    problem: str | None = None


def read_media(path: Path, *, every_seconds: float = 1.0) -> Iterator[Frame]:
    """Read all images and video frames at a path, in order.

    A damaged image, or a video that is truncated or has no frames, gives a frame with its problem,
    and reading continues. So does a pipe, a broken link, and a picture beyond
    :data:`examples.image_files.PIXEL_LIMIT`. Hidden files and files of the operating system are
    ignored.

    Args:
        path: an image, a video, or a folder, which is read recursively.
        every_seconds: time between two frames of a video; 0: all frames.

    Raises:
        FileNotFoundError: if there is no such path, or a folder has neither images nor videos.
        ValueError: if the file's suffix is neither that of an image nor of a video.
    """
    if not path.exists() and not path.is_symlink():
        raise FileNotFoundError(f"`source` must be an image, a video or a folder; got {path}")
    if not path.is_dir():
        yield from _read_file(path, path.name, every_seconds)
        return
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files = sorted(
        each
        for each in path.rglob("*")
        if each.suffix.lower() in suffixes
        and not any(map(is_system_name, each.relative_to(path).parts))
        and not each.is_dir()
    )
    if not files:
        raise FileNotFoundError(f"`source` must hold images or videos; got none in {path}")
    for file in files:
        yield from _read_file(file, str(file.relative_to(path)), every_seconds)


def _read_file(file: Path, name: str, every_seconds: float) -> Iterator[Frame]:
    suffix = file.suffix.lower()
    if suffix not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        raise ValueError(
            f"`source` must end in one of {', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}; "
            f"got {file}"
        )
    try:
        if suffix in IMAGE_SUFFIXES:
            yield Frame(name, decode(file))
        else:
            yield from _read_video(file, name, every_seconds)
    except (CorruptImageError, OSError, av.FFmpegError) as error:
        yield Frame(name, None, problem=str(error))


def _read_video(file: Path, name: str, every_seconds: float) -> Iterator[Frame]:
    if not file.is_file():  # opening a pipe would block
        raise CorruptImageError(f"{file} must be a video; got no regular file")
    due, found = 0.0, False
    try:
        # Some formats are lists of URLs, which must not be opened.
        with av.open(f"file:{file}", options={"protocol_whitelist": "file"}) as container:
            for frame in _decode_frames(container):
                seconds = frame.time or 0.0
                if seconds + 1e-6 < due:
                    continue
                due, found = seconds + every_seconds, True
                # Phones store the rotation as metadata.
                turns = round(getattr(frame, "rotation", 0) / 90)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns).copy()
                yield Frame(
                    f"{name} @ {seconds:.2f} s",
                    torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
                    seconds,
                )
        if not found:
            yield Frame(name, None, problem=f"{file} must be a video with frames; got none")
    except (av.FFmpegError, ValueError) as error:
        yield Frame(name, None, problem=f"{file} must be a video that can be decoded: {error}")


def _decode_frames(container: InputContainer) -> Iterator[av.VideoFrame]:
    """Yield the frames of the first video stream; none if there is only sound."""
    for stream in container.streams.video[:1]:
        if stream.codec_context is None:
            raise ValueError("no codec for its pictures")
        expect_pixels(stream.codec_context.width, stream.codec_context.height)
        # The decoder's own limit also holds for later frames, which may be larger.
        stream.codec_context.options = {"max_pixels": str(PIXEL_LIMIT)}
        yield from container.decode(stream)
