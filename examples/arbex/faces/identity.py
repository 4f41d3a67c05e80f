"""Digests of a face table, by which a resumed run verifies that its data are unchanged."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from torch import Tensor

from examples.arbex.faces.face_dataset import DECODING_THREADS
from examples.arbex.faces.face_table import FaceTable

BATCH = 4096  # images read at a time


def table_digests(table: FaceTable, *, contents: bool) -> dict[str, str]:
    """Digest each column of a table.

    Args:
        table: the faces.
        contents: whether to read every image file, or only its size.

    Returns:
        Digests of classes, names (in order), labels, splits, groups, votes and images, by name.

    Example:
        >>> from synthetic_faces import synthetic_table
        >>> one, other = synthetic_table(seed=0), synthetic_table(seed=1)  # of other pixels
        >>> first, second = (table_digests(table, contents=True) for table in (one, other))
        >>> [name for name in first if first[name] != second[name]]
        ['images']
    """
    return {
        "classes": _digest(name.encode(errors="surrogateescape") for name in table.class_names),
        "names": _digest(name.encode(errors="surrogateescape") for name in table.names),
        "labels": _digest_column(table.labels),
        "splits": _digest_column(table.splits),
        "groups": _digest_column(table.groups),
        "votes": _digest_column(table.distributions),
        "images": _digest(_fingerprints(table, contents)),
    }


def changed_columns(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names of digests that differ; if the faces differ, only classes are compared."""
    compared = ("classes", "names") if before["names"] != now["names"] else tuple(now)
    return [name for name in compared if before[name] != now[name]]


def _fingerprints(table: FaceTable, contents: bool) -> Iterable[bytes]:
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        for start in range(0, len(table), BATCH):
            rows = range(start, min(start + BATCH, len(table)))
            yield from pool.map(lambda row: table.images.fingerprint(row, contents), rows)


def _digest_column(column: Tensor | None) -> str:
    return _digest([b"" if column is None else column.contiguous().numpy().tobytes()])


def _digest(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
