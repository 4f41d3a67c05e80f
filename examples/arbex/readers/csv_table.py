"""A CSV of one's own: columns `image` and `label`, and if wanted `split` and `group`."""

from pathlib import Path

from faces.face_table import SPLIT_NAMES, FaceTable

from readers.class_folders import SPLIT_FOLDERS
from readers.files import read_csv_rows
from readers.rows import ReadingError, Rows, SplitOptions, find_file, keep_official, split_by_group

COLUMNS = ("image", "label", "split", "group")


def read_csv(root: Path, options: SplitOptions) -> FaceTable:
    """Read a CSV with a header; image paths are relative to its folder.

    Classes are the labels that occur, in order (numbers by value). Without a column `split`, whole
    groups are chosen; without a column `group`, each image is its own.

    Args:
        root: the CSV, or a folder that holds `faces.csv`.
        options: how to choose the splits that are not given.

    Raises:
        FileNotFoundError: if the CSV is not there.
        ReadingError: if a column is missing, or a row is not as it should be, naming its line.
    """
    path = root if root.is_file() else find_file(root, "faces.csv", what="the table")
    rows = Rows()
    texts: list[str] = []
    lines = read_csv_rows(path)
    header = [name.strip().lower() for name in next(lines, ("", []))[1]]
    if not {"image", "label"} <= set(header):
        raise ReadingError(f"{path}:1", f"a header of {', '.join(COLUMNS)}", header)
    for where, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            raise ReadingError(where, f"{len(header)} columns", len(cells))
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        if not row["image"] or not row["label"]:
            raise ReadingError(where, "an image and a label", cells)
        row["image"] = row["image"].replace("\\", "/")  # as Windows has it
        image = path.parent / row["image"]
        try:
            is_there = image.is_file()
        except OSError as error:  # a name too long for any file
            raise ReadingError(where, "the path of an image", error) from error
        if not is_there:
            rows.report("missing image", where, f"expected {image}")
            continue
        split = row.get("split", SPLIT_NAMES[0]).lower()
        if split not in SPLIT_FOLDERS:
            raise ReadingError(where, f"a split of {', '.join(SPLIT_NAMES)}", repr(split))
        texts.append(row["label"])
        rows.add(row["image"], 0, row.get("group") or row["image"], SPLIT_FOLDERS[split])
    found = set(texts)
    by_value = all(text.isdecimal() and len(text) < 20 for text in found)
    class_names = tuple(sorted(found, key=lambda text: (int(text) if by_value else 0, text)))
    if len(class_names) < 2:
        raise ReadingError(path, "labels of two classes or more, with their images", class_names)
    rows.labels = [class_names.index(text) for text in texts]
    split_rule = keep_official(options) if "split" in header else split_by_group(options)
    return rows.to_table(path.stem, class_names, path.parent, split_rule)
