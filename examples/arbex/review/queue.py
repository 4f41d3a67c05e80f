"""The doubtful faces of a run, and the decisions on them, which are saved at once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from examples.arbex.faces.face_table import Correction, FaceTable
from examples.arbex.plain_text import in_utf_8
from examples.arbex.readers.corrections import (
    EARLIER,
    read_corrections,
    rows_of,
    save_corrections,
)
from examples.arbex.readers.files import read_csv_rows
from examples.arbex.readers.rows import ReadingError
from examples.arbex.run_data import load_faces
from examples.arbex.training.run_folder import RunFolder, config_of

COLUMNS = ("sample", "given", "suggested", "doubt")
NO_VERDICTS = (
    "No verdicts: the model has learned too little. These are the labels in the order of doubt, "
    "with a suggestion that may be the label itself."
)


class DoubtfulFace(NamedTuple):
    """A face whose label may be wrong."""

    name: str
    row: int  # in the table of faces
    given: str
    suggested: str
    doubt: float


@dataclass
class Review:
    """Doubtful faces, the most doubtful first, with the decisions on them.

    Several reviews may write one file: each adds its decisions to those on disk.

    Args:
        table: all faces of the run's data.
        faces: those to review.
        file: the CSV of corrections, which is written at each decision.
        earlier: corrections that the run was trained with; the CSV repeats them with the verdict
            `earlier`, so that it is complete.
        caution: why the labels have no verdicts; empty if they have.
    """

    table: FaceTable
    faces: list[DoubtfulFace]
    file: Path
    earlier: dict[str, Correction] = field(default_factory=dict)
    caution: str = ""

    def __post_init__(self) -> None:
        self.earlier = {name: each._replace(verdict=EARLIER) for name, each in self.earlier.items()}
        self.corrections = self._on_disk()

    @property
    def class_names(self) -> list[str]:
        """Return the classes, in UTF-8."""
        return [in_utf_8(name) for name in self.table.class_names]

    def picture(self, number: int) -> Tensor:
        """Return the picture of a doubtful face, (3, H, W) uint8."""
        return self.table.images[self.faces[number].row]

    def decision(self, number: int) -> Correction | None:
        """Return the decision on a doubtful face, or None."""
        found = self.corrections.get(self.faces[number].name)
        return None if found is None or found.verdict == EARLIER else found

    def decide(self, number: int, label: str | None) -> None:
        """Correct the label of a doubtful face, and save.

        Args:
            number: position of the face.
            label: the class; the given one keeps it. None: undo.

        Raises:
            ValueError: if there is no such face or class, or another review has decided on it since
                this one last read the file.
            OSError: if the CSV cannot be written; nothing is changed then.
        """
        if not 0 <= number < len(self.faces):
            raise ValueError(f"`face` must lie in [0, {len(self.faces)}); got {number}")
        face = self.faces[number]
        before = self.earlier.get(face.name)
        self._save({face.name: before if label is None else self._correction(face, label)})

    def take_over(self, labels: dict[str, str]) -> None:
        """Take over the labels of faces, by name, from another tool, and save.

        Raises:
            ValueError: if a face is not among the doubtful ones, a class is unknown, or another
                review has decided on a face since this one last read the file.
            OSError: if the CSV cannot be written; nothing is changed then.
        """
        faces = {face.name: face for face in self.faces}
        unknown = [name for name in labels if name not in faces]
        if unknown:
            raise ValueError(f"faces must be among the doubtful ones; got {', '.join(unknown[:5])}")
        self._save({name: self._correction(faces[name], label) for name, label in labels.items()})

    def _save(self, changes: dict[str, Correction | None]) -> None:
        """Change these faces in the file; None removes one."""
        with _alone_in(self.file.parent):
            found = self._on_disk()
            decided = [name for name in changes if found.get(name) != self.corrections.get(name)]
            if decided:
                self.corrections = found
                raise ValueError(
                    f"{self.file}: another review has decided on {', '.join(decided[:5])} in the "
                    "meantime; nothing was saved. Decide again to overrule it"
                )
            merged = {**found, **changes}
            corrections = {name: each for name, each in merged.items() if each is not None}
            save_corrections(self.file, corrections.values())
            self.corrections = corrections

    def _on_disk(self) -> dict[str, Correction]:
        written = read_corrections(self.file) if self.file.exists() else []
        return self.earlier | {each.path: each for each in written}

    def _correction(self, face: DoubtfulFace, label: str) -> Correction:
        if label not in self.class_names:
            raise ValueError(f"`label` must be one of {', '.join(self.class_names)}; got {label!r}")
        before = self.earlier.get(face.name)
        given = face.given if before is None else before.given
        verdict = {face.suggested: "accepted", given: "kept"}.get(label, "changed")
        return Correction(face.name, given, label, verdict)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other reviews that write in a folder, and hold them off."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_review(run: Path, limit: int) -> Review:
    """Open the review of a run, with the decisions so far.

    Args:
        run: folder of the run.
        limit: number of faces.

    Raises:
        FileNotFoundError: if the folder holds no run, or no ``doubtful_labels.csv``.
        ValueError: if its files do not fit the run's data.
    """
    data = config_of(RunFolder(run)).data
    table = load_faces(data)
    earlier = [] if data.corrections is None else read_corrections(data.corrections)
    faces, judged = read_doubtful(run / "doubtful_labels.csv", table, limit)
    return Review(
        table,
        faces,
        run / "corrections.csv",
        {each.path: each for each in earlier},
        "" if judged else NO_VERDICTS,
    )


def read_doubtful(path: Path, table: FaceTable, limit: int) -> tuple[list[DoubtfulFace], bool]:
    """Read the first rows of a run's ``doubtful_labels.csv`` that suggest another class.

    Returns:
        The faces, and whether labels have verdicts. If none has, the faces are the first rows,
        whatever they suggest.

    Raises:
        FileNotFoundError: if it does not exist.
        ReadingError: if it is damaged; it names the line and the column.
        ValueError: if it has faces that the table does not have.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"`run` must be the folder of a run with {path.name}; got none at {path}"
        )
    lines = read_csv_rows(path)
    header = next(lines, ("", []))[1]
    if not set(COLUMNS) <= set(header):
        raise ReadingError(f"{path}:1", f"columns {', '.join(COLUMNS)}", header)
    classes = {in_utf_8(name) for name in table.class_names}
    doubts: dict[str, tuple[str, str, float]] = {}
    judged = False
    for where, cells in lines:
        if len(cells) != len(header):
            raise ReadingError(where, f"{len(header)} columns", len(cells))
        row = dict(zip(header, cells, strict=True))
        name, given, suggested = (row[each].removeprefix("'") for each in COLUMNS[:3])
        for column, label in (("given", given), ("suggested", suggested)):
            if label not in classes:
                raise ReadingError(where, f"a class of {table.name} in `{column}`", repr(label))
        doubt = _doubt(row["doubt"], where)
        if name in doubts:
            raise ReadingError(where, "each face once in `sample`", repr(name))
        doubts[name] = given, suggested, doubt
        judged = judged or row.get("verdict") != "unknown"
    judged = judged or not doubts
    shown = [name for name, (given, other, _) in doubts.items() if not judged or given != other]
    rows = rows_of(table, shown[:limit], where=str(path))
    faces = [DoubtfulFace(name, row, *doubts[name]) for name, row in zip(shown, rows, strict=False)]
    return faces, judged


def _doubt(text: str, where: str) -> float:
    try:
        doubt = float(text)
    except ValueError:
        doubt = float("nan")
    if not 0 <= doubt <= 1:
        raise ReadingError(where, "a number in [0, 1] in `doubt`", repr(text))
    return doubt
