"""FERG-DB (Aneja et al., ACCV 2016): ``CHARACTER/CHARACTER_EMOTION/CHARACTER_EMOTION_N.png``."""

from pathlib import Path

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.readers.expressions import expression_name
from examples.arbex.readers.files import list_folders, list_images, report_unread
from examples.arbex.readers.rows import (
    ReadingError,
    Rows,
    SplitOptions,
    find_folder,
    split_by_group,
)

CLASS_NAMES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def read_ferg_db(root: Path, options: SplitOptions) -> FaceTable:
    """Read the characters; "joy" is called happiness, as in other data sets.

    There is no official split, and a random one would put near duplicates into the test set. So
    whole characters go to validation and test; ``held_out=("mery",)`` names those for the test.

    Args:
        root: `FERG_DB_256`, or its parent folder.
        options: how to split by character.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ReadingError: if a folder's name is not CHARACTER_EMOTION, or there is no image.
    """
    base = find_folder(root, "FERG_DB_256", ".", what="the characters")
    rows = Rows()
    for character in list_folders(base):
        for folder in list_folders(character):
            prefix, _, emotion = folder.name.rpartition("_")
            expression = expression_name(emotion)
            if prefix != character.name or expression not in CLASS_NAMES:
                raise ReadingError(
                    folder,
                    f"a folder like {character.name}_anger or {character.name}_joy",
                    folder.name,
                )
            label = CLASS_NAMES.index(expression)
            for image in list_images(folder, rows):
                if not image.startswith(f"{folder.name}_"):
                    rows.report("other name", folder / image, f"expected {folder.name}_N.png")
                rows.add(f"{character.name}/{folder.name}/{image}", label, character.name)
    report_unread(base, rows)
    return rows.to_table("FERG-DB", CLASS_NAMES, base, split_by_group(options))
