"""Load the faces of a recipe."""

from pathlib import Path

import torch

from examples.arbex.configuration import Data, rendered_settings
from examples.arbex.faces.completeness import expect_complete, with_lone_classes
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.readers.corrections import with_corrections
from examples.arbex.readers.reading import check_images, read_faces
from examples.arbex.readers.rows import SplitOptions

CACHE = Path("runs/cache")  # default folder of rendered faces


def load_faces(data: Data, *, used: int | None = None) -> FaceTable:
    """Read or render the data set of a recipe, and check it against the recipe's requirements.

    Args:
        data: the data set, the policy for damaged images, and the share that may be missing.
        used: TRAIN, VALIDATION or TEST, to check only the images of that split, with labels as
            given. None: all images, with corrections of labels.

    Raises:
        FileNotFoundError: if its folder does not exist.
        ValueError: if an option is unknown, its files are not as expected, images are damaged, or
            too many are missing.
    """
    table = read_recipe_faces(data)
    if data.corrections is not None and used is None:
        table = with_corrections(table, data.corrections)
    if data.dataset != "rendered":
        every = torch.ones_like(table.splits, dtype=torch.bool)
        rows = every if used is None else table.splits == used
        table = check_images(table, data.corrupt, rows.nonzero().squeeze(-1))
    table = with_lone_classes(table)
    expect_complete(table, data.max_missing)
    return table


def read_recipe_faces(data: Data) -> FaceTable:
    """Read or render the data set of a recipe, unchecked.

    Raises:
        FileNotFoundError: if its folder does not exist.
        ValueError: if an option is unknown, or its files are not as expected.
    """
    if data.dataset == "rendered":
        return read_faces("rendered", data.root or CACHE, rendered=rendered_settings(data.rendered))
    return read_faces(data.dataset, data.root, splits=SplitOptions(**data.splits))
