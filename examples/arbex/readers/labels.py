"""Names of classes as people write them: which stand for none, and which are one class twice."""

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from readers.rows import ReadingError

# What tables have where nobody gave a label; -1 is so by the custom of this field.
NO_LABEL = frozenset({"", "nan", "null", "none", "n/a", "na", "<na>"})
NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII)


def is_no_label(text: str) -> bool:
    """Whether the text stands for no label at all.

    Example:
        >>> [text for text in ("nan", " ", "-1.0", "--", "0", "neutral") if is_no_label(text)]
        ['nan', ' ', '-1.0', '--']
    """
    key = _key(text)
    return key == Decimal(-1) or key in NO_LABEL


def name_classes(root: Path, places: Mapping[str, str]) -> tuple[str, ...]:
    """Put the names of classes in order: numbers by value, all else as text.

    Args:
        root: what is being read, for messages.
        places: the names, each with the place where it was first met.

    Raises:
        ReadingError: if there are fewer than two, if two differ in case, spaces or the way to
            write a number only, or if they are numbers and not all whole.
    """
    if len(places) < 2:
        raise ReadingError(root, "images of two classes or more", tuple(places) or "none")
    keys = {name: _key(name) for name in places}
    first: dict[Decimal | str, str] = {}
    for name, key in keys.items():
        other = first.setdefault(key, name)
        if other != name:
            raise ReadingError(
                places[name],
                f"one name for each class; {other!r} at {places[other]}",
                f"{name!r}, which may be the same class",
            )
    numbers = {name: key for name, key in keys.items() if isinstance(key, Decimal)}
    if len(numbers) < len(places):
        return tuple(sorted(places))
    for name, value in numbers.items():
        if value != value.to_integral_value():
            raise ReadingError(places[name], "a class", f"{name!r}, which is a measured value")
    return tuple(sorted(numbers, key=numbers.__getitem__))


def _key(text: str) -> Decimal | str:
    """The same for all ways to write one class."""
    shown = (each for each in text if unicodedata.category(each) not in ("Cc", "Cf"))
    plain = unicodedata.normalize("NFKC", "".join(shown)).strip().casefold()
    return Decimal(plain) if NUMBER.fullmatch(plain) else re.sub(r"[\s_-]+", " ", plain).strip()
