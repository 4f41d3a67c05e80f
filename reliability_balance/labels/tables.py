"""Tables for people: aligned text, and names looked up by position."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any


def by_position(argument: str, names: Iterable[Any], count: int) -> Sequence[Any]:
    """Return `count` names as a sequence that is indexed by position; empty: there are none.

    A pandas column is indexed by its labels, so it becomes a list.

    Args:
        argument: name of the argument, for errors.
        names: names in order, or none.
        count: how many there must be.

    Raises:
        TypeError: if the names have no order, or are a table.
        ValueError: on another number of names.

    Example:
        >>> by_position("class_names", ("cat", "dog"), 2)
        ('cat', 'dog')
    """
    found = as_sequence(argument, names)
    if len(found) not in (0, count):
        raise ValueError(f"`{argument}` must hold {count} names; got {len(found)}")
    return found


def as_sequence(argument: str, names: Iterable[Any]) -> Sequence[Any]:
    """Return names as a sequence that is indexed by position.

    Raises:
        TypeError: if the names have no order, or are a table.
    """
    is_bad = isinstance(names, str | bytes | Mapping | Set) or not isinstance(names, Iterable)
    if is_bad or getattr(names, "ndim", 1) != 1:  # iterating over a table yields its columns
        raise TypeError(f"`{argument}` must be a sequence of names; got {type(names).__name__}")
    return names if isinstance(names, Sequence) else list(names)


def aligned(rows: Sequence[Sequence[str]], is_text: Sequence[bool]) -> list[str]:
    """Return the lines of a table, with text aligned left and numbers aligned right."""
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in rows
    ]


def _printable(text: str) -> str:
    """Escape line ends, control characters and lone surrogates, which names of files may hold."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
