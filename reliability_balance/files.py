"""Write files atomically, from any number of threads and processes.

A reader of a path sees the old content or the new, never a part of either. This holds even after a
power cut, since the content is on the disk before it takes the path. If writing fails, the old
file is unchanged.

- **Permissions**: those of the old file, which is replaced even if it is read-only; those of a
  new one follow the umask. The owner is the last writer.
- **Symbolic links**: followed, as by ``open``; the link stays and its target is replaced. Other
  hard links keep the old content.
- **Not a regular file**: folders, named pipes, devices and sockets are rejected.
- **Concurrent writers**: the last to finish wins.
- **Killed writers** leave a hidden ``.reliability-balance-*.tmp`` in the folder. The next writer in
  that folder deletes it; a lock protects the files of live writers.

:func:`strict_json` parses JSON from untrusted files.
"""

import contextlib
import functools
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = ["open_atomically", "strict_json", "write_atomically"]

PREFIX, SUFFIX = ".reliability-balance-", ".tmp"


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, atomically.

    Args:
        path: the file, whose folder must exist.
        content: the whole content.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written, as on a full disk; the message names `path`, which
            stays as it is.
        TypeError: if `content` is not bytes.
        ValueError: if `path` is a folder, a named pipe, a device or a socket.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/notes.txt", b"all of it")
        ...     Path(folder, "notes.txt").read_text()
        'all of it'
    """
    if not isinstance(content, bytes):
        raise TypeError(f"`content` must be bytes; got {type(content).__name__}")
    with open_atomically(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file for writing; it replaces `path` when the block ends without an error.

    The file can be read back within the block, for example to verify it. Do not close it.

    Args:
        path: the file, whose folder must exist.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written, as on a full disk; the message names `path`, which
            stays as it is.
        ValueError: if `path` is a folder, a named pipe, a device or a socket.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open_atomically(f"{folder}/weights.pt") as file:
        ...         torch.save({"weight": torch.ones(2)}, file)
        ...     torch.load(f"{folder}/weights.pt")
        {'weight': tensor([1., 1.])}
    """
    target, mode = _target(Path(path))
    try:
        _remove_leftovers(target.parent)
        temporary, file = _create(target.parent, 0o666 if mode is None else 0o600)
        try:
            with file:
                if mode is not None and stat.S_IMODE(temporary.stat().st_mode) != mode:
                    temporary.chmod(mode)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if sys.platform == "win32":
                    file.close()  # Windows cannot rename an open file
                os.replace(temporary, target)  # before the lock is released
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        message = f"{path} could not be written, and is as it was before: {error.strerror or error}"
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error


def _target(path: Path) -> tuple[Path, int | None]:
    """Return the path behind all links, and the permissions of an existing file or None."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"`path` must lie in an existing folder; got {path}")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(mode):
        raise ValueError(f"`path` must be a regular file; got the {_kind(mode)} {path}")
    return target, mode & 0o777


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _create(folder: Path, mode: int) -> tuple[Path, BinaryIO]:
    """Create a file with a new name, locked as long as it is open."""
    while True:
        temporary = folder / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        # "x" is O_EXCL: an existing file or link is neither opened nor followed.
        file = open(temporary, "x+b", opener=functools.partial(os.open, mode=mode))  # noqa: SIM115
        # Before it was locked, another writer may have deleted it as a leftover.
        if _lock(file.fileno()) and temporary.exists():
            return temporary, file
        file.close()
        temporary.unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; return False if it is locked already."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, where no leftovers are deleted
            return True
    return True


def _remove_leftovers(folder: Path) -> None:
    """Delete the files of killed writers, on systems with locks."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (
                entry.name.startswith(PREFIX)
                and entry.name.endswith(SUFFIX)
                and entry.is_file(follow_symlinks=False)
            ):
                _remove_unless_locked(entry.path)


def _remove_unless_locked(path: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entry to disk, where the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def strict_json(text: str) -> Any:
    """Parse JSON, rejecting duplicate names, NaN and infinity.

    Args:
        text: may be untrusted.

    Raises:
        ValueError: if it is not JSON, has NaN or infinity, or a name twice in one object.
        RecursionError: on very deep nesting.

    Example:
        >>> strict_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ...
        ValueError: a name that occurs twice
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant}, which is no number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name that occurs twice")
    return content
