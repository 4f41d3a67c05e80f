"""The faces that a recipe names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from configuration import Data
from faces.face_table import FaceTable
from faces.reading import read_faces
from readers.rows import SplitOptions
from rendering.rendered_faces import PRESETS, RenderedFacesSettings

CACHE = Path("runs/cache")  # of rendered faces, where the recipe names no folder


def load_faces(data: Data) -> FaceTable:
    """Read the data set of a recipe, or render it.

    Raises:
        FileNotFoundError: if its folder does not exist.
        ValueError: if an option is not known, or its files are not as expected.
    """
    if data.dataset == "rendered":
        return read_faces("rendered", data.root or CACHE, rendered=rendered_settings(data.rendered))
    try:
        splits = SplitOptions(**data.splits)
    except TypeError as error:
        raise ValueError(f"`data.splits` must name options of SplitOptions: {error}") from error
    return read_faces(data.dataset, data.root, splits=splits, corrupt=data.corrupt)


def rendered_settings(options: dict[str, Any]) -> RenderedFacesSettings:
    """Bring a recipe's ``data.rendered`` to settings.

    Raises:
        ValueError: if an option is not known.
    """
    changes = dict(options)
    difficulty = changes.pop("difficulty", "medium")
    if difficulty not in PRESETS:
        raise ValueError(
            f"`data.rendered.difficulty` must be one of {', '.join(PRESETS)}; got {difficulty!r}"
        )
    try:
        return replace(PRESETS[difficulty], **changes)
    except TypeError as error:
        raise ValueError(
            f"`data.rendered` must name options of RenderedFacesSettings: {error}"
        ) from error
