"""Shared by all readers: rows of a table, splits by group, and errors."""

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable, Problem
from examples.arbex.faces.image_sources import ImageFiles, ImageSource


class ReadingError(ValueError):
    """Invalid content of a data set; the message says where, what was expected, and what came."""

    def __init__(self, where: Path | str, expected: str, got: object) -> None:
        super().__init__(f"{where}: expected {expected}; got {got}")


@dataclass(frozen=True)
class SplitOptions:
    """Settings of splits that are not official.

    Args:
        validation_share: share of the training groups (persons, videos …) for validation.
        test_share: share of all groups for the test, if there is no official test set.
        held_out: names of the test groups instead, such as ("KA",) of JAFFE or ("mery",) of
            FERG-DB, for leave-one-out.
        seed: of the choice of groups.

    Raises:
        ValueError: if a share is out of range.
    """

    validation_share: float = 0.1
    test_share: float = 0.2
    held_out: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation_share", "test_share"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"`{name}` must lie in [0, 1); got {value}")


@dataclass
class Rows:
    """Rows of a table that is being read, and problems found.

    The reader must report everything that it ignores, so that no data are lost silently.
    """

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    folders_read: set[Path] = field(default_factory=set)

    def add(
        self, name: str, label: int, group: str, split: int = TRAIN, *, where: str | None = None
    ) -> None:
        """Append one face; `name` is its path within the data set, `where` its line, if any."""
        self.names.append(name)
        self.labels.append(label)
        self.groups.append(group)
        self.splits.append(split)
        self.places.append(where or name)

    def report(
        self, kind: str, where: Path | str, detail: str, count: int = 1, *, lost: bool = False
    ) -> None:
        """Record a problem that does not stop reading.

        Args:
            kind: kind of problem, for counting.
            where: the file, folder or line.
            detail: what was expected, what came.
            count: number of affected rows or images.
            lost: whether faces were left out that belong to the data set.
        """
        self.problems.append(Problem(kind, str(where), detail, count, lost))

    def expect_faces(self, root: Path) -> None:
        """Require at least one row.

        Raises:
            ReadingError: if there is none; the message names the first problem.
        """
        if not self.names:
            first = next((each for each in self.problems if each.lost), None)
            hint = f"; {first.kind}: {first.where}: {first.detail}" if first else ""
            raise ReadingError(root, "at least one face with a label", f"none{hint}")

    def to_table(
        self,
        title: str,
        class_names: tuple[str, ...],
        root: Path,
        split: Callable[[list[str], Tensor], Tensor],
        *,
        images: ImageSource | None = None,
        distributions: Tensor | None = None,
    ) -> FaceTable:
        """Build the table.

        Args:
            title: name of the data set.
            class_names: C names.
            root: folder that the names are relative to.
            split: maps group names and preliminary splits to the final splits.
            images: the images. None: the files with these names.
            distributions: (N, C), if known.

        Raises:
            ReadingError: if there are no rows, or an image has two different rows.
        """
        self.expect_faces(root)
        self._check_repeats()
        number = {group: index for index, group in enumerate(sorted(set(self.groups)))}
        return FaceTable(
            name=title,
            class_names=class_names,
            images=ImageFiles(root, self.names) if images is None else images,
            names=self.names,
            labels=torch.tensor(self.labels, dtype=torch.int64),
            groups=torch.tensor([number[group] for group in self.groups], dtype=torch.int64),
            splits=split(self.groups, torch.tensor(self.splits, dtype=torch.uint8)),
            distributions=distributions,
            problems=tuple(self.problems),
        )

    def _check_repeats(self) -> None:
        """Require that repeated images have the same label, split and group; they count twice."""
        first: dict[str, int] = {}
        for row, name in enumerate(self.names):
            other = first.setdefault(posixpath.normpath(name), row)
            if other == row:
                continue
            for column, values in (
                ("label", self.labels),
                ("split", self.splits),
                ("group", self.groups),
            ):
                if values[row] != values[other]:
                    raise ReadingError(
                        self.places[row],
                        f"each image with one {column}",
                        f"{name} again, with another {column} than at {self.places[other]}",
                    )
            self.report(
                "repeated row", self.places[row], f"as at {self.places[other]}; it counts twice"
            )


def split_by_group(options: SplitOptions) -> Callable[[list[str], Tensor], Tensor]:
    """Return a rule that moves whole groups to test and validation."""

    def split(groups: list[str], splits: Tensor) -> Tensor:
        unknown = sorted(set(options.held_out) - set(groups))
        if unknown:
            raise ValueError(
                f"`held_out` must name groups of the data, {', '.join(sorted(set(groups))[:12])}; "
                f"got {', '.join(unknown)}"
            )
        test = set(options.held_out) or _choose(set(groups), options.test_share, options.seed)
        splits = torch.tensor([TEST if group in test else TRAIN for group in groups]).byte()
        return _take_validation(groups, splits, options)

    return split


def keep_official(options: SplitOptions) -> Callable[[list[str], Tensor], Tensor]:
    """Return a rule that keeps the splits; a missing validation split gets training groups."""
    if options.held_out:
        raise ValueError(
            f"`held_out` must be empty where the test set is official; got {options.held_out}"
        )

    def split(groups: list[str], splits: Tensor) -> Tensor:
        if bool((splits == VALIDATION).any()):
            return splits
        return _take_validation(groups, splits, options)

    return split


def _take_validation(groups: list[str], splits: Tensor, options: SplitOptions) -> Tensor:
    training = {g for g, s in zip(groups, splits.tolist(), strict=True) if s == TRAIN}
    chosen = _choose(training, options.validation_share, options.seed + 1)
    moved = torch.tensor([group in chosen for group in groups])
    return splits.masked_fill(moved & (splits == TRAIN), VALIDATION)


def _choose(groups: set[str], share: float, seed: int) -> set[str]:
    """Choose a share of the groups: at least one unless the share is 0, and never all."""
    names = sorted(groups)
    count = 0 if share == 0 else min(max(1, round(share * len(names))), len(names) - 1)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return {names[index] for index in order[:count].tolist()}


def find_folder(root: Path, *candidates: str, what: str) -> Path:
    """Return the first candidate that is a folder; "." is the root itself.

    Raises:
        FileNotFoundError: if none is.
    """
    return _find(root, candidates, what, Path.is_dir)


def find_file(root: Path, *candidates: str, what: str) -> Path:
    """Return the first candidate that is a file.

    Raises:
        FileNotFoundError: if none is.
    """
    return _find(root, candidates, what, Path.is_file)


def _find(
    root: Path, candidates: Iterable[str], what: str, is_there: Callable[[Path], bool]
) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder; it does not exist")
    for candidate in candidates:
        if is_there(root / candidate):
            return root / candidate
    wanted = " or ".join(candidates)
    present = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(f"{root}: expected {what} at {wanted}; the folder holds {present}")
