"""Write files whole, or not at all, from any number of threads and processes at once.

Whoever reads a path sees the old content or the new, never a part of either. Not even a power cut
changes that, since the content is on the disk before it takes the path. If writing fails, the old
file stays as it is.

- **Permissions**: those of the old file, which is replaced even if it is read-only; those of a
  new one follow the umask. The file belongs to whoever wrote it last.
- **Symbolic links**: followed, as :func:`open` does; the link stays, and what it points to is
  replaced. Other hard links keep the old content.
- **Anything but a regular file** is refused: folders, named pipes, devices and sockets.
- **Two writers at once**: the last to finish wins.
- **Killed writers** leave a hidden ``.reliability-balance-*.tmp`` in the folder. The next writer in
  that folder deletes it, and knows it from a living writer's by a lock.

:func:`strict_json` reads the descriptions that come with files of any origin.
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
    """Write a file, whole or not at all.

    Args:
        path: the file, whose folder must exist.
        content: all of it.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if the file cannot be written, as on a full disk; the message names `path`, which
            stays as it is.
        TypeError: if `content` is not bytes.
        ValueError: if `path` is a folder, a named pipe, a device or a socket.

    Example:
        >>> import tempfile
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
    """Open a binary file to write, which takes `path` when the block ends without an error.

    The file can be read back within the block, as for a check of what was written. Leave it open.

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
                    file.close()  # an open file can't be renamed there
                os.replace(temporary, target)  # before the lock goes
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        message = f"{path} could not be written, and is as it was before: {error.strerror or error}"
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error


def _target(path: Path) -> tuple[Path, int | None]:
    """Where the file lies behind all links, and the permissions of what is there, if anything."""
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
    """Create a file under a new name, and lock it as long as it is open."""
    while True:
        temporary = folder / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        # "x" is O_EXCL: what is there, a link too, is neither opened nor followed.
        file = open(temporary, "x+b", opener=functools.partial(os.open, mode=mode))  # noqa: SIM115
        # Before it was locked, another writer may have taken it for a leftover.
        if _lock(file.fileno()) and temporary.exists():
            return temporary, file
        file.close()
        temporary.unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; False if another has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, where no leftover is deleted, either
            return True
    return True


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left. Without a lock to know it by, it stays."""
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
    """Make the new name last, too; not every system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def strict_json(text: str) -> Any:
    """Read JSON in which no name occurs twice and each number is one.

    Args:
        text: that may be anyone's.

    Raises:
        ValueError: if it is no JSON, has NaN or infinity, or a name twice in one object.
        RecursionError: on very many nested lists or objects.

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
