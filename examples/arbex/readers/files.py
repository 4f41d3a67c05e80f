"""List folders and read text of data sets, with stray files, empty images and odd line ends."""

import csv
import mimetypes
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from examples.arbex.readers.rows import ReadingError, Rows
from examples.image_files import has_image_suffix, is_system_name


def list_folders(folder: Path) -> list[Path]:
    """Return subfolders by name, without those of the operating system."""
    entries = (Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    return sorted(path for path in entries if not is_system_name(path.name))


def list_images(folder: Path, rows: Rows, known: Collection[str] = ()) -> list[str]:
    """Return the names of the images in a folder, sorted.

    Files of the operating system such as .DS_Store, and the `known` ones, are ignored. Empty images
    and files that are not images are reported and left out. :func:`report_unread` handles folders
    inside.
    """
    rows.folders_read.add(folder)
    names = []
    for entry in os.scandir(folder):
        if entry.name in known or entry.is_dir():
            continue
        if is_system_name(entry.name):
            if has_image_suffix(entry.name) and not entry.name.startswith("._"):
                rows.report("hidden image", entry.path, "it was left out", lost=True)
        elif not has_image_suffix(entry.name):
            _report_stray(entry.name, entry.path, rows)
        elif not entry.is_file():
            rows.report("no regular file", entry.path, "it was left out", lost=True)
        elif entry.stat().st_size == 0:
            rows.report("empty image", entry.path, "it has 0 bytes, and was left out", lost=True)
        else:
            names.append(entry.name)
    return sorted(names)


def _report_stray(name: str, path: str, rows: Rows) -> None:
    kind, _ = mimetypes.guess_type(name)
    if (kind or "").startswith("image/") or not os.path.splitext(name)[1]:
        expected = "expected a format that is read, such as .png or .jpg"
        rows.report("image of another format", path, expected, lost=True)
    else:
        rows.report("stray file", path, "it is not an image, and was ignored")


def report_unread(base: Path, rows: Rows) -> None:
    """Report the images in folders under `base` that :func:`list_images` has not read.

    This detects deviations from the expected layout: images one folder too deep, next to the class
    folders, or in a folder that is not a split.
    """
    for place, folders, files in os.walk(base, onerror=_fail):
        for path in [Path(place, name) for name in folders]:
            if is_system_name(path.name):
                rows.report("system folder", path, "it was ignored")
            elif path.is_symlink() and not any(
                path == read or path in read.parents for read in rows.folders_read
            ):
                rows.report("linked folder", path, "it was not read", lost=True)
        folders[:] = [name for name in folders if not is_system_name(name)]
        images = [name for name in files if has_image_suffix(name) and not is_system_name(name)]
        if images and Path(place) not in rows.folders_read:
            detail = f"{images[0]} and others there were left out: no images belong here"
            rows.report("image in another place", place, detail, len(images), lost=True)


def _fail(error: OSError) -> None:
    raise error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line that is not blank as ("path:number", text), numbered from 1.

    Any line ends are accepted, and a byte order mark is dropped.

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
    """Return the text of a file, without a byte order mark.

    Raises:
        ReadingError: if it is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error


def read_csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each row of a CSV as ("path:line", cells), without holding the file in memory.

    Raises:
        ReadingError: if it is not UTF-8 text, or not CSV.
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
    """Parse a whole number in [0, size); None for any other text."""
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(size)):
        return None
    return int(text) if int(text) < size else None


def _not_text(path: Path, error: UnicodeDecodeError) -> ReadingError:
    return ReadingError(path, "UTF-8 text", f"bytes that are not: {error}")
