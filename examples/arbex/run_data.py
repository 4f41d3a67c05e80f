"""The faces that a recipe names."""

from dataclasses import replace
from pathlib import Path

from configuration import Data
from face_table import FaceTable
from rendered_faces import PRESETS, rendered_faces

RENDERED = "rendered"
CACHE = Path("runs/cache")  # of rendered faces, where the recipe names no folder


def load_faces(data: Data) -> FaceTable:
    """Read the data set of a recipe, or render it.

    Raises:
        FileNotFoundError: if its folder does not exist.
        ValueError: if the data set or an option is not known, or its files are not as expected.
    """
    options = dict(data.options)
    difficulty = options.pop("difficulty", "medium")
    if difficulty not in PRESETS:
        raise ValueError(
            f"`data.options.difficulty` must be one of {', '.join(PRESETS)}; got {difficulty!r}"
        )
    try:
        settings = replace(PRESETS[difficulty], **options)
    except TypeError as error:
        raise ValueError(f"`data.options` must fit the rendered faces: {error}") from error
    return rendered_faces(settings, data.root or CACHE)
