"""List folders and read text as data sets have them: stray files, empty images, odd line ends."""

import csv
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from readers.rows import IMAGE_SUFFIXES, ReadingError, Rows


def list_folders(folder: Path) -> list[Path]:
    """Subfolders by name, without hidden ones."""
    entries = (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    return sorted(path for path in entries if not path.name.startswith("."))


def list_images(folder: Path, rows: Rows, known: Collection[str] = ()) -> list[str]:
    """Names of the images in a folder, sorted.

    Hidden files such as .DS_Store, and the `known` ones, are passed over; empty images and other
    files that are no images are reported and left out.
    """
    names = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or entry.name in known or entry.is_dir():
            continue
        if not entry.name.lower().endswith(IMAGE_SUFFIXES):
            rows.report("stray file", entry.path, "it is no image, and was passed over")
        elif entry.stat().st_size == 0:
            rows.report("empty image", entry.path, "it has 0 bytes, and was left out")
        else:
            names.append(entry.name)
    return sorted(names)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Give each line that is not blank as ("path:number", text), numbered from 1.

    Any line end will do, also none after the last line, and a byte order mark is dropped.

    Raises:
        ReadingError: if the file is not UTF-8 text, or has no lines.
    """
    text = read_text(path)
    if not text.strip():
        raise ReadingError(path, "rows of text", "an empty file")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ReadingError: if it is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error


def read_csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Give each row of a CSV as ("path:line", cells), without holding the file in memory.

    Raises:
        ReadingError: if it is not UTF-8 text, or no CSV.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            for cells in reader:
                yield f"{path}:{reader.line_num}", cells
        except UnicodeDecodeError as error:
            raise _not_text(path, error) from error
        except csv.Error as error:
            raise ReadingError(f"{path}:{reader.line_num}", "a row of CSV", error) from error


def read_number(text: str, size: int) -> int | None:
    """The whole number that the text is, if it lies in [0, size)."""
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(size)):
        return None
    return int(text) if int(text) < size else None


def _not_text(path: Path, error: UnicodeDecodeError) -> ReadingError:
    return ReadingError(path, "UTF-8 text", f"bytes that are not: {error}")
