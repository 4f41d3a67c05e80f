"""Aff-Wild2 with the expression labels of the ABAW challenges (Kollias and Zafeiriou).

``cropped_aligned/VIDEO/00001.jpg`` is frame 1; frames without a face are missing.
``.../EXPR_Classification_Challenge/Train_Set/VIDEO.txt`` has a header of class names, then one code
per frame, -1 for none. Frames and codes are joined by number; their counts differ.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch

from examples.arbex.faces.face_table import TEST, TRAIN, FaceTable, Selection
from examples.arbex.faces.image_sources import ImageFiles
from examples.arbex.readers.expressions import expression_name
from examples.arbex.readers.files import list_folders, read_text, report_unread
from examples.arbex.readers.rows import ReadingError, Rows, SplitOptions, find_folder, keep_official
from examples.image_files import has_image_suffix, is_system_name

CHALLENGES = ("EXPR_Classification_Challenge", "EXPR_Recognition_Challenge")
# No test labels are published; papers report on the validation set, which is our test set.
SETS = {"Train_Set": TRAIN, "Validation_Set": TEST}
FRAME = re.compile(r"(\d{5,9})\.jpg")
SIDE = re.compile(r"_(left|right)$")  # two people in one video


class Annotation(NamedTuple):
    """Codes of a video's frames: index i is frame i + 1, -1 is none."""

    class_names: tuple[str, ...]
    codes: npt.NDArray[np.int64]


class FrameNames(Sequence[str]):
    """Paths of frames, built on access: 12 bytes per frame instead of a string.

    Args:
        videos: names of the videos.
        video: (N,) index of each frame's video in `videos`.
        frame: (N,) number of each frame, from 1.
    """

    def __init__(
        self, videos: list[str], video: npt.NDArray[np.int32], frame: npt.NDArray[np.int64]
    ) -> None:
        self.videos = videos
        self.video = video
        self.frame = frame

    def __len__(self) -> int:
        return len(self.frame)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Selection(self, torch.arange(len(self))[index])
        return f"{self.videos[self.video[index]]}/{self.frame[index]:05d}.jpg"


def read_aff_wild2(root: Path, options: SplitOptions) -> FaceTable:
    """Read all labelled frames with a face; each video, or side of it, is a group.

    The official validation set is the test set. Validation takes whole videos of the training set,
    always with both persons of a video.

    Args:
        root: the folder that holds `cropped_aligned` and, at most two folders down, one of the
            annotation folders `EXPR_Classification_Challenge` or `EXPR_Recognition_Challenge`.
        options: how to choose the validation set.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ReadingError: if an annotation file is invalid, naming its line.
    """
    faces = find_folder(root, "cropped_aligned", what="the frames")
    challenge = _find_challenge(root)
    rows = Rows()
    class_names: tuple[str, ...] | None = None
    seen: dict[str, Path] = {}
    videos: list[str] = []
    splits: list[int] = []
    frames: list[npt.NDArray[np.int64]] = []
    labels: list[npt.NDArray[np.int64]] = []
    for set_name, split in SETS.items():
        for path in sorted(find_folder(challenge, set_name, what="annotations").glob("[!.]*.txt")):
            if path.stem in seen:
                raise ReadingError(path, "each video in one set", f"also {seen[path.stem]}")
            seen[path.stem] = path
            annotation = read_annotation(path)
            class_names = class_names or annotation.class_names
            if sorted(annotation.class_names) != sorted(class_names):
                raise ReadingError(f"{path}:1", f"classes {class_names}", annotation.class_names)
            if not (faces / path.stem).is_dir():
                count = int((annotation.codes >= 0).sum())
                expected = f"expected {faces / path.stem}"
                rows.report("video without frames", path, expected, count, lost=True)
                continue
            kept, codes = _join(faces / path.stem, path, annotation.codes, rows)
            # Codes follow each file's own header.
            renumber = np.array([class_names.index(name) for name in annotation.class_names])
            videos.append(path.stem)
            splits.append(split)
            frames.append(kept)
            labels.append(renumber[codes])
    for folder in list_folders(faces):
        if folder.name not in seen:
            # For example those of the official test set, whose labels are not published.
            rows.report("video without labels", folder, f"expected {folder.name}.txt")
            rows.folders_read.add(folder)
    report_unread(faces, rows)
    if class_names is None or not any(len(each) for each in frames):
        raise ReadingError(challenge, "annotations of frames that are there", "none")

    video = np.repeat(np.arange(len(videos), dtype=np.int32), [len(each) for each in frames])
    names = FrameNames(videos, video, np.concatenate(frames))
    people = [SIDE.sub("", name) for name in videos]
    split_of_video = keep_official(options)(people, torch.tensor(splits, dtype=torch.uint8))
    groups = torch.from_numpy(video)
    return FaceTable(
        name="Aff-Wild2",
        class_names=class_names,
        images=ImageFiles(faces, names),
        names=names,
        labels=torch.from_numpy(np.concatenate(labels)),
        groups=groups.long(),
        splits=split_of_video[groups.long()],
        problems=tuple(rows.problems),
    )


def read_annotation(path: Path) -> Annotation:
    """Read one video's header and codes.

    Raises:
        ReadingError: if the header does not list class names, or a line is not a code.
    """
    lines = read_text(path).rstrip().splitlines()
    header = lines[0].split(",") if lines else [""]
    names = [expression_name(name) for name in header]
    if None in names or len(set(names)) < 2 or len(set(names)) != len(names):
        got = repr(",".join(header))
        if [name.strip().lower() for name in header] == ["valence", "arousal"]:
            got += ", which is of the valence-arousal challenge"
        raise ReadingError(f"{path}:1", "a header like `Neutral,Anger,Disgust,…`", got)
    try:
        codes = np.array(lines[1:], dtype=np.str_).astype(np.int64)
        wrong = np.flatnonzero((codes < -1) | (codes >= len(names)))
        first_wrong = int(wrong[0]) if len(wrong) else None
    except (ValueError, OverflowError):
        first_wrong = next(i for i, line in enumerate(lines[1:]) if not _is_code(line))
    if first_wrong is not None:
        raise ReadingError(
            f"{path}:{first_wrong + 2}",
            f"a code from -1 to {len(names) - 1}",
            repr(lines[1 + first_wrong]),
        )
    return Annotation(tuple(name for name in names if name is not None), codes)


def _is_code(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d{1,9}\s*", text, re.ASCII) is not None


def _join(
    folder: Path, path: Path, codes: npt.NDArray[np.int64], rows: Rows
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the frames of a folder that have a code, and their codes."""
    rows.folders_read.add(folder)
    names = os.listdir(folder)
    matches = [FRAME.fullmatch(name) for name in names]
    frames = np.array(sorted(int(match[1]) for match in matches if match), dtype=np.int64)
    others = [
        name
        for name, match in zip(names, matches, strict=True)
        if match is None and has_image_suffix(name) and not is_system_name(name)
    ]
    if others:
        detail = f"{min(others)} is not like 00001.jpg"
        rows.report("other name", folder, detail, len(others), lost=True)
    annotated = (frames >= 1) & (frames <= len(codes))
    if not annotated.all():
        count = int((~annotated).sum())
        rows.report("frame without label", folder, f"{path.name} has {len(codes)} codes", count)
    frames = frames[annotated]
    missing = int((codes >= 0).sum() - (codes[frames - 1] >= 0).sum())
    if missing:
        rows.report("labelled frame without face", path, f"not in {folder}", missing, lost=True)
    frames = frames[codes[frames - 1] >= 0]
    return frames, codes[frames - 1]


def _find_challenge(root: Path) -> Path:
    for name in CHALLENGES:
        for pattern in (name, f"*/{name}", f"*/*/{name}"):
            found = sorted(path for path in root.glob(pattern) if path.is_dir())
            if found:
                return found[0]
    raise FileNotFoundError(
        f"{root}: expected a folder {' or '.join(CHALLENGES)}, two down at most"
    )
