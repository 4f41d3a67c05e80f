"""Allow one training at a time in a folder, by a lock that ends with its process."""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

LOCK_NAME = "run.lock"


@contextmanager
def only_run_in(root: Path) -> Iterator[None]:
    """Lock the folder of a run, and create it if necessary.

    The lock ends with the process in any case; forked processes do not hold it. A new folder that
    stays empty is removed afterwards.

    Args:
        root: the folder.

    Raises:
        FileExistsError: if another process trains there; the message names it.
        OSError: if the folder cannot be created, or its disk has no locks.
    """
    path = root / LOCK_NAME
    is_new = not root.exists()
    file = _acquire(path)
    try:
        yield
    finally:
        # Delete it while it is held, so as not to delete another process's lock.
        path.unlink(missing_ok=True)
        file.close()
        if is_new:
            with suppress(OSError):  # something was written
                root.rmdir()


def _acquire(path: Path) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # the previous holder has just removed the folder
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise FileExistsError(
                f"`out` must be a folder where no training runs; got {path.parent}, held by "
                f"{holder}. Wait for it, or choose another --out"
            ) from error
        except OSError:
            file.close()
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # the previous holder has just deleted it
    owner = {
        "pid": os.getpid(),
        "host": platform.node(),
        "start": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    file.truncate(0)
    file.write(json.dumps(owner))
    file.flush()
    return file
