"""Folders of images, one per class, optionally within folders for the splits."""

from collections.abc import Callable, Collection
from pathlib import Path

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable
from examples.arbex.readers.files import list_folders, list_images, report_unread
from examples.arbex.readers.labels import is_no_label, name_classes
from examples.arbex.readers.rows import (
    ReadingError,
    Rows,
    SplitOptions,
    keep_official,
    split_by_group,
)

SPLIT_FOLDERS = {
    "train": TRAIN,
    "training": TRAIN,
    "train_class": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "val_class": VALIDATION,
    "test": TEST,
}


def read_class_folders(root: Path, options: SplitOptions) -> FaceTable:
    """Read ``train/CLASS/*``, ``test/CLASS/*`` and, if there, ``val/CLASS/*``; or ``CLASS/*``.

    Classes are the names of folders with images, see :func:`name_classes`. Each image is its own
    group.

    Args:
        root: the folder.
        options: how to choose missing splits.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ReadingError: if there are fewer than two classes, no images, or two spellings of a class.
    """

    def class_of(folder: str) -> str | None:
        return None if is_no_label(folder) else folder

    return read_named_folders(root.name, root, class_of, options)


def split_folders(root: Path) -> list[tuple[Path, int]]:
    """Return the folders of the splits, or the root as training if there are none.

    Without a test folder, the validation folder is the test set, as in papers, and validation is
    taken from training.

    Raises:
        FileNotFoundError: if the root does not exist.
        ReadingError: if there are split folders, but none for training.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: expected a folder; it does not exist")
    folders = [
        (folder, SPLIT_FOLDERS[folder.name.lower()])
        for folder in list_folders(root)
        if folder.name.lower() in SPLIT_FOLDERS
    ]
    if folders and all(split != TRAIN for _, split in folders):
        raise ReadingError(root, "a folder `train`", ", ".join(f.name for f, _ in folders))
    if all(split != TEST for _, split in folders):
        folders = [(f, TEST if split == VALIDATION else split) for f, split in folders]
    return folders or [(root, TRAIN)]


def read_named_folders(
    title: str,
    root: Path,
    class_of: Callable[[str], str | None],
    options: SplitOptions,
    *,
    class_order: Collection[str] = (),
    no_classes: Collection[str] = (),
) -> FaceTable:
    """Read folders that are named after classes.

    Args:
        title: name of the data set.
        root: the folder of the splits, or of the classes.
        class_of: maps a folder's name to its class, or None for other folders, which are reported.
        options: how to choose missing splits.
        class_order: all possible classes, in order. Empty: the classes found.
        no_classes: names of the data set's folders for images without a class.
    """
    folders = split_folders(root)
    rows = Rows()
    classes: list[str] = []
    places: dict[str, str] = {}
    for part, split in folders:
        for folder in list_folders(part):
            images = list_images(folder, rows)
            name = class_of(folder.name)
            if folder.name in no_classes:
                rows.report("no expression", folder, "it was left out", len(images))
            elif not images:
                rows.report("folder without images", folder, "it was ignored")
            elif name is None:
                rows.report("no class", folder, "it was left out", len(images), lost=True)
            else:
                places.setdefault(name, str(folder))
                relative = folder.relative_to(root).as_posix()
                for image in images:
                    path = f"{relative}/{image}"
                    rows.add(path, 0, path, split)
                    classes.append(name)
    report_unread(root, rows)
    rows.expect_faces(root)
    class_names = tuple(name for name in class_order if name in places)
    if len(class_names) < 2:
        class_names = name_classes(root, places)
    position = {name: label for label, name in enumerate(class_names)}
    rows.labels = [position[name] for name in classes]
    rule = split_by_group(options) if folders == [(root, TRAIN)] else keep_official(options)
    return rows.to_table(title, class_names, root, rule)
