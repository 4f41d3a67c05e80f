"""The doubtful faces of a run, and the decisions on them, which are saved at once."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.plain_text import in_utf_8
from examples.arbex.readers.corrections import (
    Correction,
    read_corrections,
    rows_of,
    save_corrections,
)
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

    Args:
        table: all faces of the run's data.
        faces: those to review.
        file: the CSV of corrections, which is written at each decision.
        earlier: corrections that the run was trained with; the CSV repeats them, so that it is
            complete.
        caution: why the labels have no verdicts; empty if they have.
    """

    table: FaceTable
    faces: list[DoubtfulFace]
    file: Path
    earlier: dict[str, Correction] = field(default_factory=dict)
    caution: str = ""

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
            OSError: if the CSV cannot be written; nothing is changed then.
        """
        if not 0 <= number < len(self.faces):
            raise ValueError(f"`face` must lie in [0, {len(self.faces)}); got {number}")
        face = self.faces[number]
        corrections = dict(self.corrections)
        before = self.earlier.get(face.name)
        if label is not None:
            corrections[face.name] = self._correction(face, label)
        elif before is not None:
            corrections[face.name] = before
        else:
            corrections.pop(face.name, None)
        self._save(corrections)

    def take_over(self, labels: dict[str, str]) -> None:
        """Take over the labels of faces, by name, from another tool, and save.

        Raises:
            ValueError: if a face is not among the doubtful ones, or a class is unknown.
            OSError: if the CSV cannot be written; nothing is changed then.
        """
        faces = {face.name: face for face in self.faces}
        unknown = [name for name in labels if name not in faces]
        if unknown:
            raise ValueError(f"faces must be among the doubtful ones; got {', '.join(unknown[:5])}")
        decided = {name: self._correction(faces[name], label) for name, label in labels.items()}
        self._save({**self.corrections, **decided})

    def _save(self, corrections: dict[str, Correction]) -> None:
        save_corrections(self.file, corrections.values())
        self.corrections = corrections

    def _correction(self, face: DoubtfulFace, label: str) -> Correction:
        if label not in self.class_names:
            raise ValueError(f"`label` must be one of {', '.join(self.class_names)}; got {label!r}")
        verdict = {face.suggested: "accepted", face.given: "kept"}.get(label, "changed")
        before = self.earlier.get(face.name)
        given = face.given if before is None else before.given
        return Correction(face.name, given, label, verdict)


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
        lines = list(reader)
    judged = any(row.get("verdict") != "unknown" for row in lines) or not lines
    lines = [row for row in lines if not judged or row["given"] != row["suggested"]][:limit]
    texts = [
        tuple(line[name].removeprefix("'") for name in ("sample", "given", "suggested"))
        for line in lines
    ]
    rows = rows_of(table, [name for name, _, _ in texts], where=str(path))
    faces = [
        DoubtfulFace(name, row, given, suggested, float(line["doubt"]))
        for (name, given, suggested), row, line in zip(texts, rows, lines, strict=True)
    ]
    return faces, judged
