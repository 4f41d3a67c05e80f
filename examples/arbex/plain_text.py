"""Escape text for the terminal, since names of files and classes may hold control codes."""

import sys


def printable(text: object) -> str:
    r"""Escape unprintable characters: line ends, terminal codes, bytes that are not UTF-8.

    Example:
        >>> print(printable("a\x1b[2Jb.png"))
        a\x1b[2Jb.png
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


def in_utf_8(text: str) -> str:
    """Escape bytes that are not UTF-8, which file names may have."""
    return text.encode("utf-8", "backslashreplace").decode()


def say(text: object) -> None:
    """Print one line or several; characters that the terminal cannot show are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    lines = "\n".join(printable(line) for line in str(text).split("\n"))
    print(lines.encode(encoding, "backslashreplace").decode(encoding), flush=True)
