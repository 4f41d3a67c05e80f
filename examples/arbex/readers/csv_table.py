"""Your own CSV file: columns `image` and `label`, optionally `split` and `group`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from examples.arbex.faces.face_table import SPLIT_NAMES, FaceTable
from examples.arbex.readers.class_folders import SPLIT_FOLDERS
from examples.arbex.readers.files import read_csv_rows
from examples.arbex.readers.labels import is_no_label, name_classes
from examples.arbex.readers.rows import (
    ReadingError,
    Rows,
    SplitOptions,
    find_file,
    keep_official,
    split_by_group,
)

COLUMNS = ("image", "label", "split", "group")


def read_csv(root: Path, options: SplitOptions) -> FaceTable:
    """Read a CSV with a header; image paths are relative to its folder.

    Classes are the labels that occur, see :func:`name_classes`. Rows without a label, such as
    ``nan`` or ``-1``, are left out and reported. Without a column `split`, splits are made of whole
    groups; without a column `group`, each image is its own group.

    Args:
        root: the CSV, or a folder with `faces.csv`.
        options: how to choose missing splits.

    Raises:
        FileNotFoundError: if the CSV does not exist.
        ReadingError: if a column is missing or repeated, a row is invalid, an image has two
            different rows, or a class has two spellings; it names the line.
    """
    path = root if root.is_file() else find_file(root, "faces.csv", what="the table")
    rows = Rows()
    texts: list[str] = []
    places: dict[str, str] = {}
    lines = read_csv_rows(path)
    header = [name.strip().lower() for name in next(lines, ("", []))[1]]
    _check_header(path, header, rows)
    for where, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ReadingError(where, f"{len(header)} columns", len(cells))
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        split = row.get("split", SPLIT_NAMES[0]).lower()
        if split not in SPLIT_FOLDERS:
            raise ReadingError(where, f"a split of {', '.join(SPLIT_NAMES)}", repr(split))
        image = row["image"].replace("\\", "/")  # as Windows has it
        if is_no_label(row["label"]):
            rows.report("no label", where, f"{row['label']!r} was left out", lost=True)
        elif not _is_there(path.parent, image, where):
            rows.report("missing image", where, f"expected {path.parent / image}", lost=True)
        else:
            texts.append(row["label"])
            places.setdefault(row["label"], where)
            rows.add(image, 0, row.get("group") or image, SPLIT_FOLDERS[split], where=where)
    rows.expect_faces(path)
    class_names = name_classes(path, places)
    position = {name: label for label, name in enumerate(class_names)}
    rows.labels = [position[text] for text in texts]
    split_rule = keep_official(options) if "split" in header else split_by_group(options)
    return rows.to_table(path.stem, class_names, path.parent, split_rule)


def _check_header(path: Path, header: Sequence[str], rows: Rows) -> None:
    counts = Counter(header)
    if not {"image", "label"} <= set(header) or any(counts[name] > 1 for name in COLUMNS):
        raise ReadingError(f"{path}:1", f"a header of {', '.join(COLUMNS)}, each once", header)
    for name in header:
        if name not in COLUMNS:
            rows.report("other column", f"{path}:1", f"{name!r} was not read")


def _is_there(folder: Path, image: str, where: str) -> bool:
    if not image:
        raise ReadingError(where, "the path of an image", "none")
    try:
        return (folder / image).is_file()
    except OSError as error:  # a name too long for any file
        raise ReadingError(where, "the path of an image", error) from error
