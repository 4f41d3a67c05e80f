"""The doubtful faces of a run, and the decisions on them, which are saved at once."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from examples.arbex.faces.corrections import (
    Correction,
    read_corrections,
    rows_of,
    save_corrections,
)
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.plain_text import in_utf_8

COLUMNS = ("sample", "given", "suggested", "doubt", "plausibility", "verdict")


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

    Args:
        table: all faces of the run's data.
        faces: those to review.
        file: the CSV of corrections, which is written at each decision.
        earlier: corrections that the run was trained with; the CSV repeats them, so that it is
            complete.
    """

    table: FaceTable
    faces: list[DoubtfulFace]
    file: Path
    earlier: dict[str, Correction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corrections = dict(self.earlier)
        if self.file.exists():
            self.corrections.update((each.path, each) for each in read_corrections(self.file))

    @property
    def class_names(self) -> list[str]:
        """Return the classes, in UTF-8."""
        return [in_utf_8(name) for name in self.table.class_names]

    def picture(self, number: int) -> Tensor:
        """Return the picture of a doubtful face, (3, H, W) uint8."""
        return self.table.images[self.faces[number].row]

    def decision(self, number: int) -> Correction | None:
        """Return the decision on a doubtful face, or None."""
        name = self.faces[number].name
        found = self.corrections.get(name)
        return None if found == self.earlier.get(name) else found

    def decide(self, number: int, label: str | None) -> None:
        """Correct the label of a doubtful face, and save.

        Args:
            number: position of the face.
            label: the class; the given one keeps it. None: undo.

        Raises:
            ValueError: if there is no such face or class.
        """
        if not 0 <= number < len(self.faces):
            raise ValueError(f"`face` must lie in [0, {len(self.faces)}); got {number}")
        face = self.faces[number]
        if label is None:
            self.corrections.pop(face.name, None)
            if face.name in self.earlier:
                self.corrections[face.name] = self.earlier[face.name]
        else:
            self._record(face, label)
        self.save()

    def decide_by_name(self, labels: dict[str, str]) -> int:
        """Take over decisions from another tool, save, and return their number.

        Raises:
            ValueError: if a face is not among the doubtful ones, or a class is unknown.
        """
        faces = {face.name: face for face in self.faces}
        unknown = [name for name in labels if name not in faces]
        if unknown:
            raise ValueError(f"faces must be among the doubtful ones; got {', '.join(unknown[:5])}")
        for name, label in labels.items():
            self._record(faces[name], label)
        self.save()
        return len(labels)

    def save(self) -> None:
        """Write the CSV, atomically."""
        save_corrections(self.file, self.corrections.values())

    def _record(self, face: DoubtfulFace, label: str) -> None:
        if label not in self.class_names:
            raise ValueError(f"`label` must be one of {', '.join(self.class_names)}; got {label!r}")
        verdict = {face.suggested: "accepted", face.given: "kept"}.get(label, "changed")
        before = self.earlier.get(face.name)
        given = face.given if before is None else before.given
        self.corrections[face.name] = Correction(face.name, given, label, verdict)


def read_doubtful(path: Path, table: FaceTable, limit: int) -> list[DoubtfulFace]:
    """Read the first rows of a run's ``doubtful_labels.csv``.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it has other columns, or faces that the table does not have.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"`run` must be the folder of a run with {path.name}; got none at {path}"
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path}: must have columns {', '.join(COLUMNS)}; got {reader.fieldnames}"
            )
        lines = [dict(line) for _, line in zip(range(limit), reader, strict=False)]
    texts = [
        tuple(line[name].removeprefix("'") for name in ("sample", "given", "suggested"))
        for line in lines
    ]
    rows = rows_of(table, [name for name, _, _ in texts], where=str(path))
    return [
        DoubtfulFace(*text[:1], row, *text[1:], float(line["doubt"]))
        for text, row, line in zip(texts, rows, lines, strict=True)
    ]
