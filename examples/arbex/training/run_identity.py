"""Identity of a run: its recipe and data, which must be the same when it resumes."""

from collections.abc import Mapping
from typing import Any

from examples.arbex.configuration import RunConfig, as_plain
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.faces.identity import changed_columns, table_digests
from reliability_balance.core.recipes import renamed

IDENTITY = "identity"  # key in a resume point
# Settings that may change: location and loading of data, length of training, resume points. The
# data hold the labels after corrections.
FREE_KEYS = (
    *("data.root", "data.workers", "data.max_missing", "data.corrections"),
    *("optimization.epochs", "optimization.checkpoint_steps"),
)


def run_identity(config: RunConfig, table: FaceTable) -> dict[str, Any]:
    """Describe a run in plain values.

    Every image file is read; with `data.corrupt: unchecked`, only its size.
    """
    contents = config.data.corrupt != "unchecked"
    return {"recipe": as_plain(config), "data": table_digests(table, contents=contents)}


def expect_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Require that a run resumes with the same recipe and data.

    Raises:
        ValueError: if it does not; the message names the changes.
    """
    saved = before["recipe"]
    old, new = flat({**saved, "recipe": renamed(saved["recipe"])}), flat(now["recipe"])
    changed = [
        f"{key} = {new.get(key)}, which was {old.get(key)}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not key.startswith(FREE_KEYS)
    ]
    changed += [f"other {name}" for name in changed_columns(before["data"], now["data"])]
    if changed:
        raise ValueError(
            f"`--resume` needs the recipe and data of the run; got {'; '.join(changed)}. "
            "Put that right, or start a new run with another --out"
        )


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to values by path.

    Example:
        >>> flat({"seed": 0, "data": {"root": "faces"}})
        {'seed': 0, 'data.root': 'faces'}
    """
    values: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, Mapping) and value
        values |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return values
