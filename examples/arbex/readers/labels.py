"""Class names as people write them: missing labels, and different spellings of a class."""

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from examples.arbex.readers.rows import ReadingError

# Texts for a missing label; -1 is the convention in this field.
NO_LABEL = frozenset({"", "nan", "null", "none", "n/a", "na", "<na>"})
NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.ASCII)


def is_no_label(text: str) -> bool:
    """Return whether the text means that there is no label.

    Example:
        >>> [text for text in ("nan", " ", "-1.0", "--", "0", "neutral") if is_no_label(text)]
        ['nan', ' ', '-1.0', '--']
    """
    key = _key(text)
    return key == Decimal(-1) or key in NO_LABEL


def name_classes(root: Path, places: Mapping[str, str]) -> tuple[str, ...]:
    """Sort class names: numbers by value, others as text.

    Args:
        root: the data set, for messages.
        places: the names, each with the place of its first occurrence.

    Raises:
        ReadingError: if there are fewer than two, if two differ only in case, spaces or number
            format, or if they are numbers but not all integers.
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
    """Return a key that is the same for all spellings of a class."""
    shown = (each for each in text if unicodedata.category(each) not in ("Cc", "Cf"))
    plain = unicodedata.normalize("NFKC", "".join(shown)).strip().casefold()
    return Decimal(plain) if NUMBER.fullmatch(plain) else re.sub(r"[\s_-]+", " ", plain).strip()
