"""What may be printed: names of files and classes are anybody's, and a terminal obeys some."""

import sys


def printable(text: object) -> str:
    r"""Escape what is no letter, mark or space: line ends, terminal codes, bytes that are no UTF-8.

    Example:
        >>> print(printable("a\x1b[2Jb.png"))
        a\x1b[2Jb.png
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def in_utf_8(text: str) -> str:
    """Put backslashes in the place of bytes that are no UTF-8, as names of files may have."""
    return text.encode("utf-8", "backslashreplace").decode()


def say(text: object) -> None:
    """Print one line or several; what the terminal cannot show is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    lines = "\n".join(printable(line) for line in str(text).split("\n"))
    print(lines.encode(encoding, "backslashreplace").decode(encoding), flush=True)
