"""A disk that is full, for this process."""

import contextlib
import resource


@contextlib.contextmanager
def largest_file(size):
    """Writing beyond that many bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
