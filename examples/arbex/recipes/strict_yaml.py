"""Strict YAML: numbers as in YAML 1.2, and no duplicate keys."""

import re
from typing import Any

import yaml

# YAML 1.1, as in PyYAML, reads 010 as 8, 1:30 as 90, 1e3 as text, and no as false.
SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML copies it on change

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Reject duplicate keys, of which PyYAML would use the last."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"`{key.value}` is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML copies it on change

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values in full."""
        return True


for _name, (_pattern, _first) in SCALARS.items():
    _characters = [*_first, ""] if _name == "null" else [*_first]
    for _each in (_Loader, _Dumper):
        _each.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), _characters
        )
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node))
)


def read_yaml(text: str | bytes, *, all_text: bool = False) -> Any:
    """Read one document.

    Args:
        text: the document.
        all_text: whether numbers, booleans and null are read as text.

    Raises:
        ValueError: if it is not YAML or has duplicate keys; the message is one line.
    """
    try:
        return yaml.load(text, yaml.BaseLoader if all_text else _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"must be YAML: {error.problem}{place}") from error
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"must be YAML: {' '.join(str(error).split())}") from error


def write_yaml(content: object) -> str:
    """Write a document that :func:`read_yaml` reads back."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False))
