"""Results written to files: whole, or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, which takes its place when all went well.

    Raises:
        OSError: if it cannot be written, as on a full disk; it names `path`, which stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise type(error)(
            f"{path} could not be written, and is as it was before: {error}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_text(path: Path, content: str) -> None:
    """Write text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def save_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    save_text(path, json.dumps(content, indent=2) + "\n")
