"""Read any data set by name into a face table."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from examples.arbex.faces.face_dataset import drop_corrupt
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.faces.image_sources import CorruptImageError
from examples.arbex.readers.aff_wild2 import read_aff_wild2
from examples.arbex.readers.affectnet import read_affectnet
from examples.arbex.readers.class_folders import read_class_folders
from examples.arbex.readers.csv_table import read_csv
from examples.arbex.readers.fer_plus import read_fer_plus
from examples.arbex.readers.ferg_db import read_ferg_db
from examples.arbex.readers.jaffe import read_jaffe
from examples.arbex.readers.raf_db import read_raf_db
from examples.arbex.readers.rows import SplitOptions
from examples.arbex.rendering.rendered_faces import PRESETS, RenderedFacesSettings, rendered_faces

FileDataset = Literal[
    "raf-db", "aff-wild2", "jaffe", "ferg-db", "fer-plus", "affectnet", "folders", "csv"
]
DatasetName = Literal["rendered", FileDataset]
CorruptPolicy = Literal["error", "skip", "unchecked"]

DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)
READERS: dict[FileDataset, Callable[[Path, SplitOptions], FaceTable]] = {
    "raf-db": read_raf_db,
    "aff-wild2": read_aff_wild2,
    "jaffe": read_jaffe,
    "ferg-db": read_ferg_db,
    "fer-plus": read_fer_plus,
    "affectnet": read_affectnet,
    "folders": read_class_folders,
    "csv": read_csv,
}


def read_faces(
    dataset: DatasetName,
    root: Path | None,
    *,
    splits: SplitOptions | None = None,
    rendered: RenderedFacesSettings = PRESETS["medium"],
) -> FaceTable:
    """Read a data set.

    Args:
        dataset: its name.
        root: its folder (or the file of "csv"); for "rendered" the cache, or None for no cache.
        splits: how to choose splits that are not official, in data from files.
        rendered: settings of "rendered".

    Raises:
        FileNotFoundError: if a part of the data set does not exist.
        ValueError: if a file is invalid, or the name is unknown.
    """
    if dataset not in DATASETS:
        raise ValueError(f"`dataset` must be one of {', '.join(DATASETS)}; got {dataset!r}")
    if dataset == "rendered":
        return rendered_faces(rendered, root)
    if root is None:
        raise ValueError(
            f"`root` must be the folder of {dataset}; got None: add --set data.root=FOLDER"
        )
    return READERS[dataset](root, splits or SplitOptions())


def check_images(table: FaceTable, policy: CorruptPolicy, rows: Tensor) -> FaceTable:
    """Decode every image in advance, so that damage does not stop a run midway.

    Args:
        table: the faces.
        policy: "error" rejects a data set with damaged images; "skip" leaves them out and reports
            them in ``problems``; "unchecked" decodes none, for millions of images whose decoding
            takes longer than an epoch: a damaged one then stops the training.
        rows: (M,) int64, the rows to check.

    Raises:
        CorruptImageError: if there are damaged images, and the policy is "error".
        ValueError: if the policy is unknown.
    """
    if policy not in get_args(CorruptPolicy):
        raise ValueError(
            f"`corrupt` must be one of {', '.join(get_args(CorruptPolicy))}; got {policy!r}"
        )
    sound = table if policy == "unchecked" else drop_corrupt(table, rows)
    damaged = len(table) - len(sound)
    if damaged and policy == "error":
        raise CorruptImageError(
            f"{sound.problems[-damaged].detail}; {damaged} of {len(rows)} images are damaged. "
            "Fix them, or leave them out by data.corrupt=skip"
        )
    return sound
