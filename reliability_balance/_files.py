"""Text files that are written whole, or not at all."""

import os
from pathlib import Path


def write_text(path: Path, content: str) -> None:
    """Write beside `path`, see it onto the disk, and only then take the old file's place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
