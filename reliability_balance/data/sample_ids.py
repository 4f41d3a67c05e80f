"""Ids of samples, such as file names or database keys, and their rows."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance.files import open_atomically


class SampleIds(Sequence[str]):
    """The ids of samples, in order, and the row of each.

    :class:`RobustLoss` identifies a sample by its row, its place in the labels. This maps ids to
    rows: pass ``ids.rows(keys)`` as the `index` of a batch, or give :class:`IndexedDataset` the
    rows of its items. A row never changes: new ids are appended.

    As a sequence of strings it serves as `sample_names` of tables. An id takes 24 bytes and its
    text: 14 million ids of 20 characters take 0.6 GB.

    Args:
        ids: strings, in the order of the labels. Convert other keys: ``map(str, keys)``.

    Raises:
        TypeError: if an id is not a string.
        ValueError: if an id occurs twice.

    Example:
        >>> ids = SampleIds(["cat/1.png", "dog/1.png"])
        >>> ids.add(["dog/2.png"])
        tensor([2])
        >>> ids.rows(["dog/2.png", "cat/1.png"]), ids[1]
        (tensor([2, 0]), 'dog/1.png')
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._text: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._ends: npt.NDArray[np.int64] = np.zeros(1, np.int64)  # id i ends at i + 1
        # Sorted, with their rows: 64 bits each, compared by the text where they are equal.
        self._hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.add(ids)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        more = f", … and {len(self) - 3:,} more" if len(self) > 3 else ""
        return f"{type(self).__name__}([{shown}{more}])"

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        places = range(len(self))[row]
        if isinstance(places, range):
            return [_decoded(self._bytes(place)) for place in places]
        return _decoded(self._bytes(places))

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self._find([_encoded(value)])[0] >= 0

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Return the row of one id.

        Args:
            value: the id.
            start: first row to accept.
            stop: row after the last one to accept; None: the number of ids.

        Raises:
            ValueError: if there is no such id among these rows.
        """
        row = int(self.rows([value])[0])
        if row not in range(len(self))[start:stop]:
            raise ValueError(f"`value` must lie in rows {start} to {stop}; got row {row}")
        return row

    def rows(self, ids: Iterable[str]) -> Tensor:
        """Return the rows of ids.

        Args:
            ids: B strings, as a batch holds.

        Shape:
            - returns (B,) int64.

        Raises:
            TypeError: if an id is not a string.
            ValueError: if an id is not known; the message names it.
        """
        encoded = list(map(_encoded, _several(ids)))
        found = self._find(encoded)
        unknown = [_decoded(encoded[place]) for place in (found < 0).nonzero()[0]]
        if unknown:
            raise ValueError(
                f"`ids` must be among the {len(self)} known ones; got "
                f"{checks.listed(map(repr, unknown))}: call `add` first if they are new"
            )
        return torch.from_numpy(found)

    def add(self, ids: Iterable[str]) -> Tensor:
        """Append ids and return their rows; nothing is changed if one is rejected.

        Each call sorts all ids: add many at once.

        Args:
            ids: B strings.

        Shape:
            - returns (B,) int64, from the number of ids before.

        Raises:
            TypeError: if an id is not a string.
            ValueError: if an id occurs twice, or is known already.
        """
        before, text, ends, hashes = len(self), bytearray(), array("q"), array("Q")
        end = int(self._ends[-1])
        for each in map(_encoded, _several(ids)):  # without an object for each id
            text += each
            end += len(each)
            ends.append(end)
            hashes.append(_hash(each))
        grown = object.__new__(type(self))
        grown._text = np.concatenate([self._text, np.frombuffer(text, np.uint8)])
        grown._ends = np.concatenate([self._ends, np.frombuffer(ends, np.int64)])
        new = np.frombuffer(hashes, np.uint64)
        joined = np.concatenate([self._hashes, new])
        order = joined.argsort(kind="stable")
        grown._hashes = joined[order]
        grown._order = np.concatenate([self._order, np.arange(before, len(grown))])[order]
        grown._check_distinct(before)
        vars(self).update(vars(grown))
        return torch.arange(before, len(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ids to one file, atomically.

        Let one process add and save: of two that add to the same file, the last one wins, and the
        other's rows belong to other ids. In distributed training all processes add the same ids.

        Args:
            path: the file, whose folder must exist.

        Raises:
            OSError: if the file cannot be written.
        """
        with open_atomically(path) as file:
            np.savez(file, text=self._text, ends=self._ends)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that :meth:`save` wrote. It holds no code, so it may be untrusted.

        Args:
            path: the file.

        Raises:
            OSError: if the file cannot be opened.
            ValueError: if it is of another kind or damaged.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     SampleIds(["a", "b"]).save(f"{folder}/ids.npz")
            ...     list(SampleIds.load(f"{folder}/ids.npz"))
            ['a', 'b']
        """
        with open(path, "rb") as opened:
            try:
                with np.load(opened, allow_pickle=False) as file:
                    text, ends = file["text"], file["ends"]
                return cls(_split(text, ends))
            except Exception as error:  # NumPy, zipfile and zlib raise many kinds on damaged files
                raise ValueError(f"`path` must be a file of ids; got {path}: {error}") from error

    def _bytes(self, row: int) -> bytes:
        return self._text[self._ends[row] : self._ends[row + 1]].tobytes()

    def _find(self, encoded: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Return the rows of encoded ids; -1 for unknown ones."""
        hashes = np.fromiter(map(_hash, encoded), np.uint64, len(encoded))
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        found = np.full(len(encoded), -1, np.int64)
        for place, each in enumerate(encoded):
            for row in self._order[first[place] : last[place]]:
                if self._bytes(row) == each:
                    found[place] = row
        return found

    def _check_distinct(self, known: int) -> None:
        """Compare the texts of ids with equal hashes; the first `known` ids are distinct."""
        equal = self._hashes[1:] == self._hashes[:-1]
        alike = np.concatenate([equal, [False]]) | np.concatenate([[False], equal])
        seen: dict[bytes, int] = {}
        for row in np.sort(self._order[alike[: len(self)]]).tolist():
            if (other := seen.setdefault(self._bytes(row), row)) != row:
                if other < known:
                    raise ValueError(
                        f"`ids` must be new; got {self[row]!r}, which is row {other} already"
                    )
                raise ValueError(f"`ids` must be distinct; got {self[row]!r} twice")


def _several(ids: Any) -> Iterator[Any]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"`ids` must be strings, several of them; got {type(ids).__name__}")
    return iter(ids)


def _encoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(
            f"`ids` must be strings; got {type(text).__name__}: convert them, map(str, ids)"
        )
    return text.encode("utf-8", "surrogatepass")  # names of files may hold surrogates


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _split(text: Any, ends: Any) -> Iterator[str]:
    """Yield the ids of a file's two arrays."""
    for name, each, dtype in (("text", text, np.uint8), ("ends", ends, np.int64)):
        if each.dtype != dtype or each.ndim != 1:
            raise ValueError(f"{name} of dtype {each.dtype} and shape {each.shape}")
    if not len(ends) or ends[0] != 0 or ends[-1] != len(text) or (np.diff(ends) < 0).any():
        raise ValueError(f"ends that do not divide {len(text)} bytes")
    return (_decoded(text[start:end].tobytes()) for start, end in pairwise(ends))
