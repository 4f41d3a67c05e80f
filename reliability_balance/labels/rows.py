"""A row of C numbers for each sample: all of them, or the largest ones and the sum of the rest."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

# Rows of up to this many classes are stored whole.
WHOLE_CLASSES = 32
# Numbers stored of a longer row: with the rest, they are sixteen.
KEPT = 15
# Times as many are stored of a column of J: wrong labels may come from many classes.
COUNTED = 2
# Tensors (B, ...), a row for each sample.
Parts = tuple[Tensor, ...]
# Elements of a block of rows: it fits in the CPU cache.
BLOCK = 2**19
# A function that is called with the number of steps done since its last call.
Progress = Callable[[int], object]


def blocks(rows: Tensor, width: int, size: int | None = None) -> Iterator[Tensor]:
    """Split rows so that blocks of this width have at most `size` elements; None: BLOCK."""
    yield from rows.split(max(1, (BLOCK if size is None else size) // width))


def followed(parts: Iterable[Tensor], progress: Progress | None) -> Iterator[Tensor]:
    """Yield blocks of rows, and report each one when it is done."""
    for part in parts:
        yield part
        if progress is not None:
            progress(len(part))


def with_rows(tensor: Tensor, count: int, value: float = 0.0) -> Tensor:
    """Append `count` rows of a value."""
    return torch.cat([tensor, tensor.new_full((count, *tensor.shape[1:]), value)])


class DenseRows(nn.Module):
    """Rows that are stored whole.

    Args:
        count: number of rows.
        num_classes: C.
        dtype: dtype of the values.

    State:
        ``values`` (count, C), zeros at first.
    """

    values: Tensor

    def __init__(self, count: int, num_classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(count, num_classes, dtype=dtype))

    def read(self, index: Tensor, shares: Tensor) -> Tensor:
        """Return rows (B, C) as stored; `shares` as in :meth:`SparseRows.read`."""
        return self.values[index]

    def largest(self, rows: Tensor, first: Tensor) -> Tensor:
        """Return which classes to store, as :meth:`SparseRows.largest`: (B, 0), as all are."""
        return first.new_empty(len(first), 0, dtype=torch.int32)

    def entries(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Return the entries of rows (B, C) that are stored: all."""
        return rows

    def compress_entries(self, entries: Tensor, total: Tensor | float) -> Parts:
        """Return what :meth:`store` needs, as :meth:`SparseRows.compress_entries`."""
        return (entries.to(self.values.dtype),)

    def compress(self, rows: Tensor, classes: Tensor) -> tuple[Tensor, Parts]:
        """Return rows (B, C) as they are read once stored, and what :meth:`store` needs of them."""
        parts = self.compress_entries(rows, 0.0)
        return parts[0], parts

    def store(self, index: Tensor, parts: Parts, classes: Tensor) -> None:
        """Store compressed rows; `classes` are those of `largest`, int32."""
        (self.values[index],) = parts

    def write(self, index: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Store rows (B, C) and return them as stored; `classes` are those of `largest`."""
        return _write(self, index, rows, classes)

    def add_samples(self, count: int) -> None:
        """Append rows of zeros."""
        self.values = with_rows(self.values, count)

    def add_classes(self, count: int) -> None:
        """Append classes, of value 0 in each row."""
        self.values = nn.functional.pad(self.values, (0, count))


class SparseRows(nn.Module):
    """Rows of which some entries are stored, and the sum of the others.

    A row takes 6 k + 2 bytes in float16, 92 for k = 15, whatever the number of classes.

    Args:
        count: number of rows.
        num_classes: C.
        kept: k, the number of entries stored, < C.
        dtype: dtype of the values.

    State:
        ``values`` (count, k); ``classes`` (count, k) int32, distinct in each row; ``rest``
        (count,), the sum of the other entries. Values and rests are 0 at first.
    """

    values: Tensor
    classes: Tensor
    rest: Tensor

    def __init__(self, count: int, num_classes: int, kept: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("values", torch.zeros(count, kept, dtype=dtype))
        classes = torch.arange(kept, dtype=torch.int32)
        self.register_buffer("classes", classes.repeat(count, 1))
        self.register_buffer("rest", torch.zeros(count, dtype=dtype))

    def read(self, index: Tensor, shares: Tensor) -> Tensor:
        """Return rows (B, C), at least float32; `shares` (C,) sum to 1 and divide the rest."""
        values = self.values[index]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        shares = shares.to(values.dtype)
        rows = self.rest_per_share(index, shares).unsqueeze(-1) * shares
        return rows.scatter_(1, self.classes[index].long(), values)

    def rest_per_share(self, index: Tensor, shares: Tensor) -> Tensor:
        """Return the rest (B,), divided by the total share of the classes that are not stored."""
        return self.per_share(self.rest[index].to(shares.dtype), take(shares, self.classes[index]))

    def per_share(self, rest: Tensor, stored: Tensor) -> Tensor:
        """Divide rests (B,) by the share of classes other than those of shares `stored` (B, k)."""
        # A smaller share is a rounding error.
        return rest / (1.0 - stored.sum(-1)).clamp_min(1.0 / self.num_classes)

    def largest(self, rows: Tensor, first: Tensor) -> Tensor:
        """Return the classes (B, k) to store.

        Args:
            rows: values (B, C), not negative.
            first: (B,) class that is stored first, whatever its value.
        """
        first = first.unsqueeze(-1)
        value = rows.gather(1, first)
        rows.scatter_(1, first, torch.inf)
        classes = rows.topk(self.values.shape[1]).indices
        rows.scatter_(1, first, value)  # restored: a copy of all rows takes longer
        return classes

    def entries(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Return the entries (B, k) of rows (B, C) that are stored, those of `classes` (B, k)."""
        return rows.gather(1, classes)

    def compress_entries(self, entries: Tensor, total: Tensor | float) -> Parts:
        """Return what :meth:`store` needs of entries (B, k) of rows with these sums (B,)."""
        rest = total - entries.sum(-1)
        return entries.to(self.values.dtype), rest.to(self.rest.dtype)

    def compress(self, rows: Tensor, classes: Tensor) -> tuple[Tensor, Parts]:
        """Return the rows (B, C), and what :meth:`store` needs of them."""
        return rows, self.compress_entries(self.entries(rows, classes), rows.sum(-1))

    def store(self, index: Tensor, parts: Parts, classes: Tensor) -> None:
        """Store compressed rows; their classes (B, k) are int32."""
        self.values[index], self.rest[index] = parts
        self.classes[index] = classes

    def write(self, index: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Store the entries of these classes (B, k), and return the rows (B, C) unchanged."""
        return _write(self, index, rows, classes)

    def add_samples(self, count: int) -> None:
        """Append rows of zeros."""
        classes = torch.arange(self.classes.shape[1]).to(self.classes)
        self.values = with_rows(self.values, count)
        self.classes = torch.cat([self.classes, classes.expand(count, -1)])
        self.rest = with_rows(self.rest, count)

    def add_classes(self, count: int) -> None:
        """Append classes, which share the rest of each row with those that are not stored."""
        self.num_classes += count

    def store_more(self, count: int) -> None:
        """Store as many entries more of rows whose first k classes are stored: the next ones."""
        kept = self.values.shape[1]
        new = torch.arange(kept, kept + count).to(self.classes).expand(len(self.classes), -1)
        self.classes = torch.cat([self.classes, new], 1)
        self.values = nn.functional.pad(self.values, (0, count))


def take(values: Tensor, places: Tensor) -> Tensor:
    """Return values (C,) at places of any shape; faster than indexing."""
    return values.index_select(0, places.flatten()).view(places.shape)


def sums_by_place(place: Tensor, values: Tensor) -> Tensor:
    """Sum values (T, ...) of the same place (T,), in the same order in each run and rank."""
    return torch.zeros_like(values).index_put_((place,), values, accumulate=True)


Rows = DenseRows | SparseRows


def _write(owner: Rows, index: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
    """Compress and store rows (B, C) of `owner`; return them as stored."""
    rows, parts = owner.compress(rows, classes)
    owner.store(index, parts, classes.int())
    return rows


def make_rows(count: int, num_classes: int, kept: int, dtype: torch.dtype) -> Rows:
    """Return rows that store `kept` of C entries, or all of them."""
    if kept >= num_classes:
        return DenseRows(count, num_classes, dtype)
    return SparseRows(count, num_classes, kept, dtype)
