"""Tables for people: aligned and printable text, and names of classes and samples."""

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any

from torch import Tensor


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


def class_names_of(names: Iterable[Any], count: int) -> Sequence[Any]:
    """Return the names of `count` classes as a sequence; empty: there are none.

    Raises:
        TypeError: if the names have no order, or as :func:`check_class_names`.
        ValueError: on another number of names, or if two are the same text.

    Example:
        >>> class_names_of(("cat", "cat"), 2)
        Traceback (most recent call last):
        ValueError: `class_names` must differ from each other; got 'cat' twice
    """
    found = by_position("class_names", names, count)
    check_class_names(found)
    return found


def check_class_names(names: Sequence[Any]) -> None:
    """Require names that tell classes apart: none missing, and no two that are the same text.

    Raises:
        TypeError: on a tensor, None or NaN.
        ValueError: if two names are the same text.
    """
    seen = set()
    for name in names:
        is_missing = name is None or (isinstance(name, Real) and name != name)
        if is_missing or isinstance(name, Tensor):
            raise TypeError(f"`class_names` must hold text or numbers; got {name!r:.100}")
        if str(name) in seen:
            raise ValueError(
                f"`class_names` must differ from each other; got {str(name)!r:.100} twice"
            )
        seen.add(str(name))


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
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in rows
    ]


def printable(text: object) -> str:
    r"""Escape line ends, control characters and lone surrogates, which names may hold.

    Example:
        >>> print(printable("a\x1b[2Jb.png"))
        a\x1b[2Jb.png
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )
