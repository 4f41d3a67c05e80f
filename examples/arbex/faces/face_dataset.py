"""A face table as a torch data set, and the treatment of images that cannot be decoded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from examples.arbex.faces.face_table import FaceTable, Problem
from examples.arbex.faces.image_sources import CorruptImageError

DECODING_THREADS = 4  # Pillow decodes outside Python's lock
SHOW_AFTER = 5.0  # seconds


class FaceSample(NamedTuple):
    """One face; the loader's default collation makes batches with the same fields."""

    image: Tensor  # (3, H, W) floating, transformed
    label: int
    # Row in the data set's table; the name hides a method of tuple, which is not needed.
    index: int  # type: ignore[assignment]
    distribution: Tensor  # (C,) float32: the table's, or one-hot where it has none


class FaceDataset(Dataset[FaceSample]):
    """Transformed faces of a table.

    A corrupt image is an error that names the file: replacing it would repeat another face and
    score a prediction for a missing one. Use `drop_corrupt(table)` to leave such images out and
    report them.

    Args:
        table: the faces.
        transform: maps a (3, H, W) uint8 tensor to a floating one, such as
            :func:`examples.arbex.faces.augmentation.train_transform`.

    Raises:
        CorruptImageError: on access to a file that cannot be decoded.
    """

    def __init__(self, table: FaceTable, transform: Callable[[Tensor], Tensor]) -> None:
        self.table = table
        self.transform = transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> FaceSample:
        label = int(self.table.labels[index])
        if self.table.distributions is None:
            distribution = torch.zeros(len(self.table.class_names))
            distribution[label] = 1.0
        else:
            distribution = self.table.distributions[index]
        image = self.transform(self.table.images[index])
        return FaceSample(image, label, int(index), distribution)


def drop_corrupt(table: FaceTable, rows: Tensor | None = None) -> FaceTable:
    """Leave out the rows whose image cannot be decoded, and report each in ``problems``.

    Every image is decoded once, which takes long for millions. All ranks of a distributed run get
    the same table, and the rows keep their order.

    Args:
        table: the faces.
        rows: (M,) int64, the rows to check. None: all rows.

    Raises:
        FileNotFoundError: if a listed file no longer exists.
    """

    def find_damage(index: int) -> Problem | None:
        try:
            table.images[index]
        except CorruptImageError as error:
            return Problem("corrupt image", table.names[index], str(error), lost=True)
        return None

    looked_at = range(len(table)) if rows is None else rows.tolist()
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        found = pool.map(find_damage, looked_at)
        damage = list(
            tqdm(found, "checking images", len(looked_at), delay=SHOW_AFTER, disable=None)
        )
    damaged = [row for row, problem in zip(looked_at, damage, strict=True) if problem is not None]
    if not damaged:
        return table
    sound = torch.ones(len(table), dtype=torch.bool)
    sound[damaged] = False
    problems = tuple(problem for problem in damage if problem is not None)
    kept = table.select(sound.nonzero().squeeze(-1))
    return replace(kept, problems=table.problems + problems)
