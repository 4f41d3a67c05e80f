"""A face table as a torch data set, and what to do about images that cannot be decoded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from faces.face_table import FaceTable, Problem
from faces.image_sources import CorruptImageError

DECODING_THREADS = 4  # Pillow decodes outside Python's lock


class FaceSample(NamedTuple):
    """One face; the loader's default collation turns it into a batch of the same fields."""

    image: Tensor  # (3, H, W) floating, transformed
    label: int
    # Row in the data set's table; the name hides a method of tuple that nobody needs here.
    index: int  # type: ignore[assignment]
    distribution: Tensor  # (C,) float32: the table's, or one-hot where it has none


class FaceDataset(Dataset[FaceSample]):
    """Faces of a table, transformed.

    A corrupt image is an error that names the file: to replace it while training would show
    some face twice and judge predictions on a face that is not there. Give `drop_corrupt(table)`
    to leave such images out; it says which.

    Args:
        table: the faces.
        transform: from a (3, H, W) uint8 tensor to a floating one, such as
            :func:`faces.augmentation.train_transform`.

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


def drop_corrupt(table: FaceTable) -> FaceTable:
    """Leave out the rows whose image cannot be decoded, and report each in ``problems``.

    Every image is decoded once, which takes a while for millions. All ranks of a
    distributed run come to the same table, and the rows keep their order.
    """

    def find_damage(index: int) -> str | None:
        try:
            table.images[index]
        except CorruptImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        damage = list(pool.map(find_damage, range(len(table)), chunksize=64))
    problems = tuple(
        Problem("corrupt image", table.names[index], error)
        for index, error in enumerate(damage)
        if error is not None
    )
    if not problems:
        return table
    sound = torch.tensor([error is None for error in damage])
    kept = table.select(sound.nonzero().squeeze(-1))
    return replace(kept, problems=table.problems + problems)
