"""What the library promises: the names that an ``__all__`` lists, and their signatures.

    python tests/helpers/public_api.py

writes them anew, after an intended change; from the first release on, the changelog names it too.
"""

import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import is_typeddict

SNAPSHOT = Path(__file__).parents[1] / "fixtures" / "public_api.json"
NEED_AN_EXTRA = {
    "reliability_balance.integrations.cleanlab",
    "reliability_balance.integrations.sklearn",
    "reliability_balance.integrations.transformers",
}


def public_modules() -> Iterator[ModuleType]:
    """Each module with an ``__all__``, the root first; without those whose extra is missing."""
    root = importlib.import_module("reliability_balance")
    yield root
    for info in pkgutil.walk_packages(root.__path__, "reliability_balance."):
        try:
            module = importlib.import_module(info.name)
        except ImportError:
            if info.name not in NEED_AN_EXTRA:
                raise
        else:
            if hasattr(module, "__all__"):
                yield module


def public_objects() -> dict[str, object]:
    """Each public thing by the name under which it is documented; the root lists none anew."""
    _, *modules = public_modules()
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in module.__all__
    }


def public_api() -> dict[str, object]:
    """What the root lists, and the signature of each public thing."""
    root = next(public_modules())
    described = {name: _described(thing) for name, thing in sorted(public_objects().items())}
    return {root.__name__: sorted(root.__all__), **described}


def _described(thing: object) -> object:
    if inspect.isclass(thing):
        return _class_api(thing)
    return _signature(thing) if inspect.isfunction(thing) else "constant"


def _class_api(cls: type) -> dict[str, str]:
    """The constructor and the library's public methods and properties, or the names it holds."""
    if is_typeddict(cls):
        return {"keys": ", ".join(cls.__annotations__)}
    if issubclass(cls, Enum):
        return {"members": ", ".join(f"{member.name}={member.value!r}" for member in cls)}
    own = {
        key: value
        for base in reversed(cls.__mro__)
        if base.__module__.startswith(cls.__module__.partition(".")[0])
        for key, value in vars(base).items()
    }
    members = {
        key: "property" if isinstance(value, property) else _signature(getattr(cls, key))
        for key, value in sorted(own.items())
        if not key.startswith("_")
        and (isinstance(value, property | classmethod) or callable(value))
    }
    return {"()": _signature(cls), **members}


def _signature(thing: object) -> str:
    """Names, kinds and defaults; annotations print differently in each version of Python."""
    signature = inspect.signature(thing)  # type: ignore[arg-type]
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_told(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _told(default: object) -> object:
    """A default whose text does not depend on the run."""
    return _Name(default.__qualname__) if inspect.isfunction(default) else default


class _Name(str):
    """A name that prints without quotes."""

    __repr__ = str.__str__


def render() -> str:
    """The snapshot as it is stored."""
    return json.dumps(public_api(), indent=2) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    SNAPSHOT.write_text(render(), encoding="utf-8")
