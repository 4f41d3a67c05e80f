"""The doubtful faces as a data set in the database of FiftyOne, where it is installed."""

from importlib.util import find_spec
from pathlib import Path

DATASET = "arbex-review"


def is_installed() -> bool:
    """Return whether FiftyOne can be imported."""
    return find_spec("fiftyone") is not None


def load(folder: Path) -> str:
    """Make the persistent data set of an exported folder, and return its name.

    An older data set of that name is replaced.
    """
    import fiftyone

    dataset = fiftyone.Dataset.from_dir(
        dataset_dir=str(folder),
        dataset_type=fiftyone.types.FiftyOneImageClassificationDataset,
        label_field="ground_truth",
        name=DATASET,
        overwrite=True,
    )
    dataset.persistent = True
    return DATASET
