"""Damage valid files: bits, cuts, splices, huge numbers and odd text, all by a seeded generator."""

import random
import re
import struct
from collections.abc import Callable, Sequence

NUMBERS = (
    *(b"-1", b"0", b"255", b"65536", b"2147483648", b"99999999999999999999", b"1e999", b"-1e999"),
    *(b"nan", b"1.5", b"1_0", b"9" * 5000, "\N{ARABIC-INDIC DIGIT THREE}".encode(), b"true", b""),
)
TEXTS = (
    *(b"\0", b"\n", b"\r", b'"', b",", b"\t", b" ", b"\\", b"#", b"{", b"[", b"&a", b"*a", b"!!"),
    *(
        b"..",
        b"../../x",
        b"/",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        "\N{RIGHT-TO-LEFT OVERRIDE}é".encode(),
    ),
    *(b"x" * 300, b'"' + b"y" * 140_000, b"null", b"NaN", b"[" * 2000),
)

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutate(draw: random.Random, samples: Sequence[bytes]) -> bytes:
    """Take one of the valid files, and damage it in one to four ways."""
    content = bytearray(draw.choice(samples))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        draw.choice(MUTATIONS)(draw, content, samples)
    return bytes(content)


def _place(draw: random.Random, content: bytearray) -> int:
    """A position; half of them near the beginning, where headers are."""
    last = len(content)
    return draw.randint(0, min(last, 128) if draw.random() < 0.5 else last)


def _flip_bit(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    if content:
        content[min(_place(draw, content), len(content) - 1)] ^= 1 << draw.randrange(8)


def _random_bytes(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    start = _place(draw, content)
    content[start : start + draw.randint(0, 8)] = draw.randbytes(draw.randint(0, 8))


def _truncate(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    del content[_place(draw, content) :]


def _delete(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    start = _place(draw, content)
    del content[start : start + draw.randint(1, 64)]


def _repeat(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    start = _place(draw, content)
    content[start:start] = content[start : start + draw.randint(1, 64)] * draw.choice((1, 2, 50))


def _splice(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    other = bytearray(draw.choice(samples))
    content[_place(draw, content) :] = other[_place(draw, other) :]


def _huge_number(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    form, size = draw.choice((("B", 1), ("H", 2), ("I", 4), ("Q", 8)))
    value = draw.choice((0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 2 ** (4 * size)))
    start = _place(draw, content)
    content[start : start + size] = struct.pack(draw.choice("<>") + form, value)


def _other_number(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    found = list(re.finditer(rb"\d+", content))
    if found:
        match = draw.choice(found)
        content[match.start() : match.end()] = draw.choice(NUMBERS)


def _insert_text(draw: random.Random, content: bytearray, samples: Sequence[bytes]) -> None:
    start = _place(draw, content)
    content[start:start] = draw.choice(TEXTS)


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bit, _random_bytes, _truncate, _delete, _repeat, _splice),
    *(_huge_number, _other_number, _insert_text),
)
