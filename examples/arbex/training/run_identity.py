"""What a run is about: its recipe and its data, which must be the same when it goes on."""

from collections.abc import Mapping
from typing import Any

from configuration import Recipe, as_plain
from faces.face_table import FaceTable
from faces.identity import changed_columns, table_digests

IDENTITY = "identity"  # its name in a resume point
# What may change: where data lie, how they are loaded, how long and how often.
FREE_KEYS = (
    *("data.root", "data.workers", "data.max_missing"),
    *("optimization.epochs", "optimization.checkpoint_steps"),
)


def run_identity(recipe: Recipe, table: FaceTable) -> dict[str, Any]:
    """Describe a run in plain values.

    Every image file is read, but for `data.corrupt: unchecked`, where only its size is looked at.
    """
    contents = recipe.data.corrupt != "unchecked"
    return {"recipe": as_plain(recipe), "data": table_digests(table, contents=contents)}


def expect_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Require that a run goes on with what it began with.

    Raises:
        ValueError: if it does not; it names what has changed.
    """
    old, new = flat(before["recipe"]), flat(now["recipe"])
    changed = [
        f"{key} = {new.get(key)}, which was {old.get(key)}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not key.startswith(FREE_KEYS)
    ]
    changed += [f"other {name}" for name in changed_columns(before["data"], now["data"])]
    if changed:
        raise ValueError(
            f"`--resume` must go on with what the run began with; got {'; '.join(changed)}. "
            "Put that right, or begin anew with another --out"
        )


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by their path.

    Example:
        >>> flat({"seed": 0, "data": {"root": "faces"}})
        {'seed': 0, 'data.root': 'faces'}
    """
    values: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, Mapping) and value
        values |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return values
