r"""Read the docstrings' Sphinx roles and equations: ``:class:`Name``` and ``.. math::``.

Equations become MathML, which browsers draw by themselves.
"""

import re
from textwrap import dedent
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:class|func|meth|mod):`~?([\w.]+)`")
MATH = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*|(?=\n\1 ) *))*)", re.MULTILINE)
LITERAL = re.compile(r"``([^`]+)``")
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)  # the parser knows the plural only


class SphinxDocstrings(griffe.Extension):
    """Bring each docstring to Markdown before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """Replace roles, literals, equations and the title of examples."""
    text = ROLE.sub(r"`\1`", text)
    text = LITERAL.sub(r"`\1`", text)
    text = EXAMPLE.sub(r"\1Examples:", text)
    return MATH.sub(_math, text)


def _math(match: re.Match[str]) -> str:
    latex = " ".join(dedent(match[2]).split())
    return f'{match[1]}<div class="equation">{convert(latex, display="block")}</div>'
