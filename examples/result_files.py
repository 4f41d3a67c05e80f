"""Write results to files, atomically."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from reliability_balance.files import open_atomically


@contextmanager
def open_result(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing and create its folder; see :mod:`reliability_balance.files`.

    Raises:
        OSError: if it cannot be written, as on a full disk; it names `path`, which is unchanged.
        ValueError: if `path` is a folder, a named pipe, a device or a socket.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        yield file


def save_text(path: Path, content: str) -> None:
    """Write text, atomically."""
    with open_result(path) as file:
        file.write(content.encode())


def save_json(path: Path, content: object) -> None:
    """Write JSON, atomically."""
    save_text(path, json.dumps(content, indent=2) + "\n")


def save_tensors(path: Path, content: object) -> None:
    """Write any content of ``torch.save``, atomically."""
    with open_result(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # the cause behind torch's error
                raise error.__context__ from None
            raise
