"""What the library promises: the names and signatures of all public modules.

    python tests/public_api.py

writes them anew, after a change that is meant; the changelog tells it too.
"""

import importlib
import inspect
import json
import pkgutil
import sys
from enum import Enum
from pathlib import Path
from typing import is_typeddict

SNAPSHOT = Path(__file__).parent / "fixtures" / "public_api.json"
NEED_AN_EXTRA = {"reliability_balance.sklearn", "reliability_balance.transformers"}


def public_api() -> dict[str, dict[str, object]]:
    """Each public module's classes and functions; a package's exported names as well."""
    package = importlib.import_module("reliability_balance")
    found = pkgutil.walk_packages(package.__path__, "reliability_balance.")
    names = ["reliability_balance", *(info.name for info in found)]
    return {
        name: _module_api(name)
        for name in sorted(names)
        if not any(part.startswith("_") for part in name.split(".")) and _is_there(name)
    }


def _is_there(name: str) -> bool:
    """Whether a module can be imported, which one that needs an extra need not be."""
    try:
        importlib.import_module(name)
    except ImportError:
        if name in NEED_AN_EXTRA:
            return False
        raise
    return True


def _module_api(name: str) -> dict[str, object]:
    module = importlib.import_module(name)
    api: dict[str, object] = {
        key: _class_api(value) if inspect.isclass(value) else _signature(value)
        for key, value in sorted(vars(module).items())
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    }
    exported = getattr(module, "__all__", None)
    return api if exported is None else {"__all__": sorted(exported), **api}


def _class_api(cls: type) -> dict[str, str]:
    """The constructor and the class's own public methods and properties, or the names it holds."""
    if is_typeddict(cls):
        return {"keys": ", ".join(cls.__annotations__)}
    if issubclass(cls, Enum):
        return {"members": ", ".join(f"{member.name}={member.value!r}" for member in cls)}
    members = {
        key: "property" if isinstance(value, property) else _signature(getattr(cls, key))
        for key, value in sorted(vars(cls).items())
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
    sys.path.insert(0, str(Path(__file__).parents[1]))
    SNAPSHOT.write_text(render(), encoding="utf-8")
