"""Corrected labels: a CSV that a review writes, and that the next training reads."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from examples.arbex.faces.face_table import Correction, FaceTable
from examples.arbex.plain_text import in_utf_8
from examples.arbex.readers.files import read_csv_rows
from examples.arbex.readers.rows import ReadingError
from examples.result_files import save_text
from reliability_balance import checks
from reliability_balance.labels import spreadsheet_text

VERDICTS = ("kept", "accepted", "changed")  # of the given label, the suggestion, or neither
EARLIER = "earlier"  # verdict of a correction that the run was trained with, as it was then


def save_corrections(path: Path, corrections: Iterable[Correction]) -> None:
    """Write the CSV, atomically; names are safe for spreadsheets."""
    file = io.StringIO()
    writer = csv.writer(file)  # quotes both kinds of line ends within names
    writer.writerow(Correction._fields)
    writer.writerows(map(spreadsheet_text, each) for each in corrections)
    save_text(path, in_utf_8(file.getvalue()))


def read_corrections(path: Path) -> list[Correction]:
    """Read the CSV.

    Raises:
        FileNotFoundError: if it does not exist.
        ReadingError: if the header, a verdict or the number of columns is wrong, a verdict
            contradicts its labels, or a face occurs twice; it names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`corrections` must be a CSV of corrected labels; got {path}")
    lines = read_csv_rows(path)
    header = tuple(next(lines, ("", []))[1])
    if header != Correction._fields:
        raise ReadingError(f"{path}:1", f"a header of {','.join(Correction._fields)}", header)
    found: dict[str, Correction] = {}
    for where, cells in lines:
        if len(cells) != len(header):
            raise ReadingError(where, f"{len(header)} columns", len(cells))
        row = Correction(*(cell.removeprefix("'") for cell in cells))
        known = (*VERDICTS, EARLIER)
        if row.verdict not in known:
            raise ReadingError(where, f"a verdict of {', '.join(known)}", repr(row.verdict))
        if row.verdict != EARLIER and (row.verdict == "kept") != (row.given == row.corrected):
            change = f"{row.given} -> {row.corrected}, {row.verdict}"
            raise ReadingError(where, "`kept` exactly where the given label stays", change)
        if row.path in found:
            raise ReadingError(where, "each face once", repr(row.path))
        found[row.path] = row
    return list(found.values())


def with_corrections(table: FaceTable, path: Path) -> FaceTable:
    """Apply the corrections of a CSV to the labels; votes become the corrected label.

    The table keeps them, since a review may change the CSV at any time.

    Raises:
        FileNotFoundError: if the CSV does not exist.
        ValueError: if a face or class is unknown, a name is that of several faces, or a given
            label differs from the table's; it names them.
    """
    corrections = read_corrections(path)
    rows = rows_of(table, [each.path for each in corrections], where=str(path))
    places = {in_utf_8(name): place for place, name in enumerate(table.class_names)}
    unknown = {each.corrected for each in corrections} - set(places)
    if unknown:
        raise ValueError(
            f"{path}: corrected labels must be classes of {table.name}, {', '.join(places)}; "
            f"got {checks.listed(sorted(unknown))}"
        )
    names = list(places)
    differing = [
        f"{each.path} (given {each.given}, is {names[int(table.labels[row])]})"
        for each, row in zip(corrections, rows, strict=True)
        if names[int(table.labels[row])] != each.given
    ]
    if differing:
        raise ValueError(
            f"{path}: given labels must be those of {table.name}; got others for "
            f"{checks.listed(differing)}"
        )
    labels = table.labels.clone()
    labels[rows] = labels.new_tensor([places[each.corrected] for each in corrections])
    changed = (labels != table.labels).nonzero().squeeze(-1)
    distributions = table.distributions
    if distributions is not None and not table.distributions_are_true:
        distributions = distributions.clone()
        distributions[changed] = 0.0
        distributions[changed, labels[changed]] = 1.0
    return replace(
        table, labels=labels, distributions=distributions, corrections=tuple(corrections)
    )


def describe_corrections(path: Path, corrections: Sequence[Correction]) -> str:
    """Say how many labels the corrections of a CSV change."""
    changed = sum(each.corrected != each.given for each in corrections)
    return f"{changed} labels changed by {path}, of {len(corrections)} reviewed"


def rows_of(table: FaceTable, names: Iterable[str], *, where: str) -> list[int]:
    """Return the row of each name in a table.

    Raises:
        ValueError: if a name is unknown, or that of several faces; it starts with `where`.
    """
    wanted = dict.fromkeys(names)
    found: dict[str, int] = {}
    repeated = []
    for row, name in enumerate(map(in_utf_8, table.names)):
        if name in wanted:
            if name in found:
                repeated.append(name)
            found[name] = row
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{where}: faces must be in {table.name}; got {checks.listed(missing)}: is "
            "this file of another recipe or seed?"
        )
    if repeated:
        raise ValueError(
            f"{where}: names must be of one face each; got {checks.listed(repeated)} twice"
        )
    return [found[name] for name in wanted]
