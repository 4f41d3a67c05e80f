"""FER+ in its official layout, with FER2013's own labels of the same faces: real label noise.

Provide the folder: FER2013Train, FER2013Valid and FER2013Test with PNG images, `fer2013new.csv`
with ten votes per face, and in it or beside it `fer2013_labels.npz` (`names`, `fer_label`:
FER2013's labels by the names of FER+).
"""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The seven classes in FER2013's order; FER+ has columns of these names among its ten.
CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
LABELS, UNKNOWN = "fer2013_labels.npz", 255
CLEAR = 5  # more than this many of ten votes are a clear majority


class HumanFaces(NamedTuple):
    """Grey images (N, 1, 48, 48) uint8, FER2013's labels (N,) and votes (N, 7); a test set."""

    images: Tensor
    labels: Tensor
    votes: Tensor
    test_images: Tensor
    test_votes: Tensor

    @property
    def wrong(self) -> tuple[Tensor, Tensor]:
        """Return which labels differ from a clear majority of votes, and which faces have one."""
        clear = self.votes.amax(1) > CLEAR
        return (self.votes.argmax(1) != self.labels) & clear, clear


def load_human_faces(folder: Path) -> HumanFaces:
    """Read the training and the test split, without test faces that are in the training set.

    Raises:
        FileNotFoundError: if a part of the layout is missing.
    """
    labels_file = next(
        (each for each in (folder / LABELS, folder.parent / LABELS) if each.is_file()), None
    )
    if labels_file is None:
        raise FileNotFoundError(f"{LABELS} must lie in {folder} or beside it")
    with np.load(labels_file) as file:
        given = dict(zip(file["names"].tolist(), file["fer_label"].tolist(), strict=True))
    parts: dict[str, list[tuple[np.ndarray, int, list[int]]]] = {name: [] for name in FOLDERS}
    with (folder / "fer2013new.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["Image name"]
            path = folder / FOLDERS[row["Usage"]] / name
            if not name or given.get(name, UNKNOWN) == UNKNOWN or not path.is_file():
                continue
            votes = [int(row[each]) for each in CLASSES]
            parts[row["Usage"]].append((np.asarray(Image.open(path)), given[name], votes))
    train, test = parts["Training"], parts["PrivateTest"]
    seen = {_digest(image) for image, _, _ in train}
    test = [each for each in test if _digest(each[0]) not in seen and max(each[2]) > CLEAR]
    return HumanFaces(
        _images(train),
        torch.tensor([label for _, label, _ in train]),
        torch.tensor([votes for _, _, votes in train]),
        _images(test),
        torch.tensor([votes for _, _, votes in test]),
    )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _images(faces: list[tuple[np.ndarray, int, list[int]]]) -> Tensor:
    return torch.from_numpy(np.stack([image for image, _, _ in faces])).unsqueeze(1)
