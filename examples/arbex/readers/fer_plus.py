"""FER+ (Barsoum et al., ICMI 2016): ten votes for each of the 35,887 faces of FER2013.

Votes come from ``fer2013new.csv``, or from the ``label.csv`` of the folders ``FER2013Train``,
``FER2013Valid`` and ``FER2013Test``; pictures from those folders, or from the pixels in
``fer2013.csv``, whose rows are those of ``fer2013new.csv``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable
from examples.arbex.faces.image_sources import ImageArray
from examples.arbex.readers.files import list_images, read_csv_rows, read_number, report_unread
from examples.arbex.readers.rows import ReadingError, Rows, SplitOptions, keep_official

CLASS_NAMES = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
VOTES = (*CLASS_NAMES, "unknown", "nf")  # "nf": no face
USAGES = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
FOLDERS = {TRAIN: "FER2013Train", VALIDATION: "FER2013Valid", TEST: "FER2013Test"}
SIZE = 48
MOST_VOTES = 1000  # FER+ has ten per picture


class VotedFace(NamedTuple):
    """One row of votes."""

    where: str
    split: int
    image: str  # empty for rows without a name
    votes: Tensor  # (10,) float32


def read_fer_plus(root: Path, options: SplitOptions) -> FaceTable:
    """Read the faces with a majority label, with votes as soft labels.

    As in the authors' majority mode (``_process_data`` of their ``ferplus.py``), single votes for a
    class do not count. Left out and counted as problems are rows without an image name (they are
    not faces), faces voted unknown or no face, and faces without a majority. The soft labels are
    the remaining votes for the eight expressions.

    Args:
        root: the folder of the files above.
        options: unused, since all three splits are official.

    Raises:
        FileNotFoundError: if votes or pictures do not exist.
        ReadingError: if a row is invalid, naming its line.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder; it does not exist")
    new, pixels = root / "fer2013new.csv", root / "fer2013.csv"
    has_folders = (root / FOLDERS[TRAIN]).is_dir()
    if not has_folders and not (new.is_file() and pixels.is_file()):
        raise FileNotFoundError(
            f"{root}: expected the folders {', '.join(FOLDERS.values())}, "
            "or the files fer2013new.csv and fer2013.csv"
        )
    faces = list(_read_new(new) if new.is_file() else _read_label_files(root))
    rows = Rows()
    present = _keep_present(faces, root, rows) if has_folders else faces
    kept = _keep_majorities([_without_single_votes(face) for face in present], rows)
    for face in kept:
        name = f"{FOLDERS[face.split]}/{face.image}"
        label = int(face.votes[: len(CLASS_NAMES)].argmax())
        rows.add(name, label, name, face.split, where=face.where)
    votes = torch.stack([face.votes for face in kept]) if kept else torch.zeros(0, len(VOTES))
    votes = votes[:, : len(CLASS_NAMES)]
    images = None
    if not has_folders:
        position = {face.where: index for index, face in enumerate(faces)}
        images = _read_pixels(pixels, faces, [position[face.where] for face in kept])
    return rows.to_table(
        "FER+",
        CLASS_NAMES,
        root,
        keep_official(options),
        images=images,
        distributions=votes / votes.sum(-1, keepdim=True),
    )


def _without_single_votes(face: VotedFace) -> VotedFace:
    return face._replace(votes=face.votes.where(face.votes > 1, 0.0))


def _keep_majorities(faces: list[VotedFace], rows: Rows) -> list[VotedFace]:
    kept: list[VotedFace] = []
    left_out = {"row without image name": 0, "voted no expression": 0, "no majority": 0}
    for face in faces:
        if not face.image:
            left_out["row without image name"] += 1
        elif int(face.votes.argmax()) >= len(CLASS_NAMES):
            left_out["voted no expression"] += 1
        elif 2 * face.votes.max() <= face.votes.sum():
            left_out["no majority"] += 1
        else:
            kept.append(face)
    for kind, count in left_out.items():
        if count:
            rows.report(kind, faces[0].where.rpartition(":")[0], "rows left out", count)
    return kept


def _keep_present(faces: list[VotedFace], root: Path, rows: Rows) -> list[VotedFace]:
    """Return faces whose picture exists, and rows without a name, which are not faces."""
    present: set[str] = set()
    for folder in FOLDERS.values():
        if (root / folder).is_dir():
            images = list_images(root / folder, rows, known=("label.csv",))
            present |= {f"{folder}/{image}" for image in images}
            report_unread(root / folder, rows)
    kept = []
    for face in faces:
        if not face.image or f"{FOLDERS[face.split]}/{face.image}" in present:
            kept.append(face)
        else:
            expected = root / FOLDERS[face.split] / face.image
            rows.report("missing image", face.where, f"expected {expected}", lost=True)
    for name in sorted(present - {f"{FOLDERS[face.split]}/{face.image}" for face in faces}):
        rows.report("image without row", root / name, "nobody voted on it", lost=True)
    return kept


def _read_new(path: Path) -> Iterator[VotedFace]:
    """Yield the rows of fer2013new.csv, including those without a name, to keep positions."""
    lines = read_csv_rows(path)
    header = [name.strip().lower() for name in next(lines, ("", []))[1]]
    expected = ["usage", "image name", *VOTES]
    if set(header) != set(expected):
        raise ReadingError(f"{path}:1", f"a header of {','.join(expected)}", ",".join(header))
    for where, cells in lines:
        if len(cells) != len(header):
            raise ReadingError(where, f"{len(header)} columns", len(cells))
        row = dict(zip(header, cells, strict=True))
        if row["usage"] not in USAGES:
            raise ReadingError(where, f"a usage of {', '.join(USAGES)}", repr(row["usage"]))
        votes = _parse_votes(where, [row[name] for name in VOTES])
        yield VotedFace(where, USAGES[row["usage"]], row["image name"].strip(), votes)


def _read_label_files(root: Path) -> Iterator[VotedFace]:
    """Yield rows `fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0` of each label.csv."""
    for split, folder in FOLDERS.items():
        path = root / folder / "label.csv"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected the votes of {folder}; it does not exist")
        for where, cells in read_csv_rows(path):
            if len(cells) != 2 + len(VOTES):
                raise ReadingError(where, "a name, a quoted box and 10 votes", cells)
            yield VotedFace(where, split, cells[0].strip(), _parse_votes(where, cells[2:]))


def _parse_votes(where: str, cells: list[str]) -> Tensor:
    votes = [read_number(cell.strip(), MOST_VOTES + 1) for cell in cells]
    if None in votes or not any(votes):
        raise ReadingError(where, "10 counts of votes, not all 0", ",".join(cells))
    return torch.tensor(votes, dtype=torch.float32)


def _read_pixels(path: Path, faces: list[VotedFace], wanted: list[int]) -> ImageArray:
    """Return the pictures of these rows; each row must have the same split as its votes."""
    row_of = {row: index for index, row in enumerate(wanted)}
    pictures = np.zeros((len(wanted), 1, SIZE, SIZE), dtype=np.uint8)
    count = 0
    lines = read_csv_rows(path)
    header = next(lines, ("", []))[1]
    if not {"pixels", "Usage"} <= set(header):
        raise ReadingError(f"{path}:1", "a header of emotion,pixels,Usage", header)
    for count, (where, cells) in enumerate(lines, start=1):
        if len(cells) != len(header):
            raise ReadingError(where, f"{len(header)} columns", len(cells))
        row = dict(zip(header, cells, strict=True))
        if count > len(faces) or USAGES.get(row["Usage"]) != faces[count - 1].split:
            other = faces[count - 1].where if count <= len(faces) else "no row of votes"
            raise ReadingError(where, f"the split of {other}", repr(row["Usage"]))
        if count - 1 in row_of:
            pictures[row_of[count - 1], 0] = _parse_pixels(where, row["pixels"])
    if count != len(faces):
        raise ReadingError(path, f"{len(faces)} rows, one for each row of votes", count)
    return ImageArray(pictures)


def _parse_pixels(where: str, text: str) -> np.ndarray:
    try:
        values = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        values = np.array([-1])
    if values.size != SIZE * SIZE or values.min() < 0 or values.max() > 255:
        raise ReadingError(where, f"{SIZE * SIZE} pixels from 0 to 255", f"{len(text)} characters")
    return values.reshape(SIZE, SIZE)
