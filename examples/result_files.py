"""Results written to files: whole, or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from reliability_balance.files import open_atomically


@contextmanager
def open_result(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, making its folder; see :mod:`reliability_balance.files`.

    Raises:
        OSError: if it cannot be written, as on a full disk; it names `path`, which stays as it is.
        ValueError: if `path` is a folder, a named pipe, a device or a socket.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        yield file


def save_text(path: Path, content: str) -> None:
    """Write text, whole or not at all."""
    with open_result(path) as file:
        file.write(content.encode())


def save_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    save_text(path, json.dumps(content, indent=2) + "\n")


def save_tensors(path: Path, content: object) -> None:
    """Write what ``torch.save`` can, whole or not at all."""
    with open_result(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # what the disk said, behind torch's own
                raise error.__context__ from None
            raise
