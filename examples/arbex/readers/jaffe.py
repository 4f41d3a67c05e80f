"""JAFFE (Lyons et al., 1998; Zenodo 3451524): 213 gray TIFFs of ten women, with ratings.

``KA.AN1.39.tiff`` is person KA, anger, take 1, serial 39. Ratings are a table in the text of
``A_README_FIRST.txt``: six means from 1 to 5 for each picture, none for neutral. Pictures and
ratings do not match one to one, so they are joined by key.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.readers.files import list_images, report_unread
from examples.arbex.readers.rows import (
    ReadingError,
    Rows,
    SplitOptions,
    find_folder,
    split_by_group,
)

CLASS_NAMES = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
POSES = {
    "NE": "neutral",
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
}
RATED = ("happiness", "sadness", "surprise", "anger", "disgust", "fear")  # the table's columns
RATING_FILES = (
    "A_README_FIRST.txt",
    "README_FIRST.txt",
    "JAFFE_labels.txt",
    "labels.txt",
)
IMAGE = re.compile(r"([A-Z]{2})\.([A-Z]{2}[1-5])\.(\d+)\.tiff?", re.IGNORECASE)
HEADER = re.compile(r"#\s+HAP\s+SAD\s+SUR\s+ANG\s+DIS\s+FEA\s+PIC", re.IGNORECASE)
RATING = re.compile(r"(\d+)((?:\s+\d+(?:\.\d+)?){6})\s+([A-Z]{2}-[A-Z]{2}\d)", re.IGNORECASE)

Ratings = dict[tuple[str, int], Tensor]


def read_jaffe(root: Path, options: SplitOptions) -> FaceTable:
    """Read the pictures, labelled by the posed expression, with ratings, if any, as soft labels.

    Args:
        root: the folder of the pictures, or the parent of `jaffe` or `jaffedbase`.
        options: how to split by person; ``held_out=("KA",)`` leaves one out.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ReadingError: if there is no picture, a name has an unknown pose, or a row of ratings is
            invalid.
    """
    folder = find_folder(root, "jaffe", "jaffedbase", ".", what="the pictures")
    rows = Rows()
    serials: list[tuple[str, int]] = []
    for name in list_images(folder, rows, known=RATING_FILES):
        match = IMAGE.fullmatch(name)
        if match is None:
            detail = "its name is not like KA.AN1.39.tiff"
            rows.report("other name", folder / name, detail, lost=True)
            continue
        person, pose = match[1].upper(), match[2].upper()
        if pose[:2] not in POSES:
            raise ReadingError(folder / name, f"a pose of {', '.join(POSES)}", pose[:2])
        rows.add(name, CLASS_NAMES.index(POSES[pose[:2]]), person)
        serials.append((f"{person}-{pose}", int(match[3])))
    report_unread(folder, rows)
    listing = next(
        (base / n for base in (folder, root) for n in RATING_FILES if (base / n).is_file()), None
    )
    distributions = None
    if listing is not None and serials:
        distributions = _join(serials, read_ratings(listing), rows, listing)
    split = split_by_group(options)
    return rows.to_table("JAFFE", CLASS_NAMES, folder, split, distributions=distributions)


def read_ratings(path: Path) -> Ratings:
    """Read the first table of ratings: (6,) means by picture key and serial.

    Lines between header and table that are not rows are ignored. The table ends at the next such
    line, so the second table ("Fear Excluded") is not read.

    Raises:
        ReadingError: if there is no table, or a row is invalid.
    """
    lines = path.read_text(encoding="latin-1").splitlines()
    start = next((i for i, line in enumerate(lines) if HEADER.search(line)), None)
    if start is None:
        raise ReadingError(path, "a line `# HAP SAD SUR ANG DIS FEA PIC`", "none")
    ratings: Ratings = {}
    for number, line in enumerate(lines[start + 1 :], start=start + 2):
        match = RATING.fullmatch(line.strip())
        if match is None:
            if line.strip()[:1].isdigit():
                raise ReadingError(
                    f"{path}:{number}", "a row like `1 4.0 2.0 1.0 1.0 1.0 1.0 AA-HA1`", repr(line)
                )
            if ratings:
                break
            continue
        means = torch.tensor([float(mean) for mean in match[2].split()])
        if not bool(((means >= 1.0) & (means <= 5.0)).all()):
            raise ReadingError(f"{path}:{number}", "means from 1 to 5", means.tolist())
        ratings[match[3].upper(), int(match[1])] = means
    if not ratings:
        raise ReadingError(path, "rows of ratings after the header", "none")
    return ratings


def rating_distribution(means: Tensor) -> Tensor:
    """Convert six mean ratings, on a scale from 1 to 5, to a distribution over seven classes.

    The weight of an expression is its rating less 1. Neutral was not rated: its weight is 5 less
    the highest rating. This rule is ours.

    Shape:
        - means: (6,) in the order of ``RATED``; returns (7,).

    Example:
        >>> rating_distribution(torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
        tensor([0.2500, 0.0000, 0.0000, 0.0000, 0.7500, 0.0000, 0.0000])
    """
    weights = torch.zeros(len(CLASS_NAMES))
    weights[[CLASS_NAMES.index(name) for name in RATED]] = means - 1.0
    weights[CLASS_NAMES.index("neutral")] = 5.0 - means.max()
    return weights / weights.sum()


def _join(serials: list[tuple[str, int]], ratings: Ratings, rows: Rows, path: Path) -> Tensor:
    """Return the distribution of each picture, by key and serial, else by key if it is unique."""
    by_key: dict[str, list[tuple[str, int]]] = {}
    for key, serial in ratings:
        by_key.setdefault(key, []).append((key, serial))
    used = set()
    distributions = torch.nn.functional.one_hot(torch.tensor(rows.labels), len(CLASS_NAMES)).float()
    for index, (key, serial) in enumerate(serials):
        candidates = by_key.get(key, [])
        chosen = (key, serial) if (key, serial) in ratings else None
        if chosen is None and len(candidates) == 1:
            chosen = candidates[0]
            rows.report("other serial", rows.names[index], f"{path.name} has {chosen[1]}")
        if chosen is None:
            rows.report("image without ratings", rows.names[index], f"not in {path.name}")
            continue
        used.add(chosen)
        distributions[index] = rating_distribution(ratings[chosen])
    for key, serial in sorted(set(ratings) - used):
        rows.report("ratings without image", path, f"{serial} {key}", lost=True)
    return distributions
