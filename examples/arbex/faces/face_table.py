"""A common table for all data sets: images, labels, groups and splits, row by row.

Columns are tensors; names and images may be computed on access, so that the three million frames of
Aff-Wild2 need little memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Generic, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from examples.arbex.faces.image_sources import ImageSource

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Problem:
    """A problem in the data, which was left out or fixed."""

    kind: str  # such as "missing image": problems are counted by kind
    where: str  # a file, or file:line
    detail: str  # what was expected, what came
    count: int = 1  # rows or images concerned
    lost: bool = False  # whether faces were left out that should have been there


class Correction(NamedTuple):
    """A reviewed label; the fields are the columns of the CSV of corrections."""

    path: str  # the face's name in its table
    given: str
    corrected: str
    verdict: str


class Selection(Sequence[Item], Generic[Item]):
    """Some items of a sequence, looked up on access."""

    def __init__(self, items: Sequence[Item], indices: Tensor) -> None:
        self.items = items
        self.indices = indices.numpy()

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Selection[Item]": ...
    def __getitem__(self, index: int | slice) -> "Item | Selection[Item]":
        if isinstance(index, slice):
            return Selection(self.items, torch.from_numpy(self.indices[index]))
        return self.items[int(self.indices[index])]


class SelectedImages:
    """Some images of a source."""

    def __init__(self, images: ImageSource, indices: Tensor) -> None:
        self.images = images
        self.indices = indices.numpy()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.images[int(self.indices[index])]

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        """Return the source's fingerprint."""
        return self.images.fingerprint(int(self.indices[index]), contents)


@dataclass(frozen=True, eq=False)
class FaceTable:
    """Faces with labels; N rows, C classes.

    Args:
        name: of the data set, for titles.
        class_names: C names; a label is an index into them.
        images: N images.
        names: N readable names of images, such as paths within the data set.
        labels: (N,) int64 in [0, C), for training or evaluation.
        groups: (N,) int64, the video, subject, character or identity of each face.
        splits: (N,) uint8, TRAIN, VALIDATION or TEST.
        distributions: (N, C) float32 rows that sum to 1, or None. Human votes (FER+, JAFFE), which
            can be used in training; or the true distribution (rendered faces), which is for
            evaluation only.
        true_labels: (N,) int64 or None, the labels before noise was added, of faces whose true
            distribution is known.
        problems: what the reader left out or fixed.
        corrections: the reviewed labels that `labels` include.

    Raises:
        TypeError: if a column has a wrong dtype.
        ValueError: if a column has a wrong shape or a value out of range.
    """

    name: str
    class_names: tuple[str, ...]
    images: ImageSource
    names: Sequence[str]
    labels: Tensor
    groups: Tensor
    splits: Tensor
    distributions: Tensor | None = None
    true_labels: Tensor | None = None
    problems: tuple[Problem, ...] = ()
    corrections: tuple[Correction, ...] = ()

    def __post_init__(self) -> None:
        count, num_classes = len(self.names), len(self.class_names)
        if len(self.images) != count:
            raise ValueError(f"`images` must hold {count} images; got {len(self.images)}")
        _check_column("labels", self.labels, torch.int64, (count,), num_classes)
        _check_column("groups", self.groups, torch.int64, (count,))
        _check_column("splits", self.splits, torch.uint8, (count,), len(SPLIT_NAMES))
        if self.distributions is not None:
            shape = (count, num_classes)
            _check_column("distributions", self.distributions, torch.float32, shape)
        if self.true_labels is not None:
            _check_column("true_labels", self.true_labels, torch.int64, (count,), num_classes)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def distributions_are_true(self) -> bool:
        """Whether the distributions are the true ones, and not human votes."""
        return self.distributions is not None and self.true_labels is not None

    def subset(self, split: int) -> "FaceTable":
        """Return the rows of TRAIN, VALIDATION or TEST, in order."""
        return self.select((self.splits == split).nonzero().squeeze(-1))

    def select(self, indices: Tensor) -> "FaceTable":
        """Return the rows at the (M,) int64 indices.

        Problems and corrections stay those of the whole table.
        """
        columns = {
            field.name: getattr(self, field.name)[indices]
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(
            self,
            images=SelectedImages(self.images, indices),
            names=Selection(self.names, indices),
            **columns,
        )

    def counts(self) -> Tensor:
        """Return the number of rows of each split and class, (3, C) int64."""
        num_classes = len(self.class_names)
        cells = self.splits.long() * num_classes + self.labels
        return cells.bincount(minlength=len(SPLIT_NAMES) * num_classes).view(-1, num_classes)


def _check_column(
    name: str,
    column: Tensor,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    size: int | None = None,
) -> None:
    if column.dtype != dtype:
        raise TypeError(f"`{name}` must have dtype {dtype}; got {column.dtype}")
    if tuple(column.shape) != shape:
        raise ValueError(f"`{name}` must have shape {shape}; got {tuple(column.shape)}")
    if (
        size is not None
        and column.numel()
        and not 0 <= int(column.min()) <= int(column.max()) < size
    ):
        raise ValueError(
            f"`{name}` must lie in [0, {size}); "
            f"got values from {int(column.min())} to {int(column.max())}"
        )
