"""A CSV of one's own: columns `image` and `label`, and if wanted `split` and `group`."""

import csv
from pathlib import Path

from faces.face_table import SPLIT_NAMES, FaceTable

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
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip().lower() for name in next(reader, [])]
        if not {"image", "label"} <= set(header):
            raise ReadingError(f"{path}:1", f"a header of {', '.join(COLUMNS)}", header)
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise ReadingError(where, f"{len(header)} columns", len(cells))
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            if not row["image"] or not row["label"]:
                raise ReadingError(where, "an image and a label", cells)
            image = path.parent / row["image"]
            if not image.is_file():
                rows.report("missing image", where, f"expected {image}")
                continue
            split = row.get("split", SPLIT_NAMES[0]).lower()
            if split not in SPLIT_NAMES:
                raise ReadingError(where, f"a split of {', '.join(SPLIT_NAMES)}", repr(split))
            texts.append(row["label"])
            rows.add(row["image"], 0, row.get("group") or row["image"], SPLIT_NAMES.index(split))
    found = set(texts)
    by_value = all(text.isdecimal() for text in found)
    class_names = tuple(sorted(found, key=lambda text: (int(text) if by_value else 0, text)))
    if len(class_names) < 2:
        raise ReadingError(path, "labels of two classes or more, with their images", class_names)
    rows.labels = [class_names.index(text) for text in texts]
    split_rule = keep_official(options) if "split" in header else split_by_group(options)
    return rows.to_table(path.stem, class_names, path.parent, split_rule)
