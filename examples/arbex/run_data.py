"""The faces that a recipe names."""

from pathlib import Path

from configuration import Data, rendered_settings
from faces.face_table import FaceTable
from faces.reading import read_faces
from readers.rows import SplitOptions

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
