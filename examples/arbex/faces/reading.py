"""Read any data set by its name into a face table."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from readers.aff_wild2 import read_aff_wild2
from readers.affectnet import read_affectnet
from readers.class_folders import read_class_folders
from readers.csv_table import read_csv
from readers.fer_plus import read_fer_plus
from readers.ferg_db import read_ferg_db
from readers.jaffe import read_jaffe
from readers.raf_db import read_raf_db
from readers.rows import SplitOptions
from rendering.rendered_faces import PRESETS, RenderedFacesSettings, rendered_faces

from faces.face_dataset import drop_corrupt
from faces.face_table import FaceTable

FileDataset = Literal[
    "raf-db", "aff-wild2", "jaffe", "ferg-db", "fer-plus", "affectnet", "folders", "csv"
]
DatasetName = Literal["rendered", FileDataset]
CorruptPolicy = Literal["error", "skip"]

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
    corrupt: CorruptPolicy = "error",
    rendered: RenderedFacesSettings = PRESETS["medium"],
) -> FaceTable:
    """Read a data set.

    Args:
        dataset: its name.
        root: its folder (or the file of "csv"); of "rendered" the cache, or None for none.
        splits: how to choose the splits that are not official, in data read from files.
        corrupt: "error" lets a damaged image stop the training with its name; "skip" decodes all
            images beforehand, leaves out the damaged ones, and reports them in ``problems``.
        rendered: what to render, for "rendered".

    Raises:
        FileNotFoundError: if something that belongs to the data set is not there.
        ValueError: if a file is not as it should be, or the name is unknown.
    """
    if dataset not in DATASETS:
        raise ValueError(f"`dataset` must be one of {', '.join(DATASETS)}; got {dataset!r}")
    if corrupt not in ("error", "skip"):
        raise ValueError(f"`corrupt` must be 'error' or 'skip'; got {corrupt!r}")
    if dataset == "rendered":
        return rendered_faces(rendered, root)
    if root is None:
        raise ValueError(f"`root` must be the folder of {dataset}; got None")
    table = READERS[dataset](root, splits or SplitOptions())
    return drop_corrupt(table) if corrupt == "skip" else table
