"""Types of a recipe's values, and of keyword arguments that it passes on."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

LARGEST_WHOLE = 2**63  # torch has 64-bit integers


def _no_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


# Strict: true is not 1, and "3" is not 3.
WholeNumber = Annotated[int, Field(strict=True, gt=-LARGEST_WHOLE, lt=LARGEST_WHOLE)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Truth = Annotated[bool, BeforeValidator(_no_number)]
CHECKED = {int: WholeNumber, float: Number, bool: Truth}


def option_types(kind: Callable[..., object]) -> dict[str, Any]:
    """Return the types of a function's or class's keyword arguments, including ``**``."""
    call = kind.__init__ if inspect.isclass(kind) else kind
    hints = get_type_hints(call, include_extras=True)
    types: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (rest,) = get_args(hints[name])  # of Unpack[...]
            types |= get_type_hints(rest)
        else:
            types[name] = hints[name]
    return types


@dataclass(frozen=True, init=False)
class OptionsOf:
    """Annotation by which pydantic checks a dictionary of keyword arguments.

    Args:
        kind: the function or class that takes them.
        without: an argument that is not a key.
        further: types of further keys.
    """

    types: dict[str, Any]

    def __init__(self, kind: Callable[..., object], without: str = "", **further: Any) -> None:
        types = {name: each for name, each in option_types(kind).items() if name != without}
        object.__setattr__(self, "types", {**types, **further})

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        fields = {
            name: core_schema.typed_dict_field(
                handler.generate_schema(_checked(kind)), required=False
            )
            for name, kind in self.types.items()
        }
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid")


def holds_text(kind: Any) -> bool:
    """Return whether values of a type are text, a path, or a list of such, or None."""
    origin = get_origin(kind)
    if origin is Annotated:
        return holds_text(get_args(kind)[0])
    if origin is Literal:
        return all(isinstance(each, str) for each in get_args(kind))
    if origin in (Union, UnionType, tuple):
        return all(holds_text(each) for each in get_args(kind) if each not in (type(None), ...))
    return kind in (str, Path)


def is_list(kind: Any) -> bool:
    """Return whether values of a type are lists."""
    return get_origin(kind) is tuple


def _checked(kind: Any) -> Any:
    """Replace plain numbers in a type by our strict ones."""
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(_checked(each) for each in get_args(kind))]  # noqa: UP007
    return CHECKED.get(kind, kind) if isinstance(kind, type) else kind
