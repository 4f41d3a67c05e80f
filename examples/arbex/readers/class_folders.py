"""Folders of images, one a class, with or without folders for the splits above them."""

from collections.abc import Mapping
from pathlib import Path

from faces.face_table import TEST, TRAIN, VALIDATION, FaceTable

from readers.files import list_folders, list_images
from readers.rows import ReadingError, Rows, SplitOptions, keep_official, split_by_group

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

    Classes are the folders' names, in order (numbers by value). Each image is its own group.

    Args:
        root: the folder.
        options: how to choose the splits that are not there.

    Raises:
        FileNotFoundError: if the folder is not there.
        ReadingError: if there are fewer than two classes, or no images.
    """
    folders = split_folders(root)
    found = {c.name for part, _ in folders for c in list_folders(part)}
    class_names = tuple(sorted(found, key=lambda name: name.zfill(9) if name.isdigit() else name))
    return read_named_folders(
        root.name, root, folders, {name: name for name in class_names}, class_names, options
    )


def split_folders(root: Path) -> list[tuple[Path, int]]:
    """Folders of the splits; the root alone, as training, where there are none.

    Without a test folder, the one for validation is the test, as papers have it, and validation
    will come from training.

    Raises:
        FileNotFoundError: if the root is not there.
        ReadingError: if there are some, but none to train on.
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
    folders: list[tuple[Path, int]],
    class_of: Mapping[str, str],
    class_names: tuple[str, ...],
    options: SplitOptions,
) -> FaceTable:
    """Read folders whose names stand for classes.

    Args:
        title: name of the data set.
        root: folder that names are relative to.
        folders: those that hold the class folders, with their splits.
        class_of: from a folder's name to its class; other folders are reported and left out.
        class_names: C names.
        options: how to choose the splits that are not there.
    """
    if len(class_names) < 2:
        raise ReadingError(root, "a folder of images for each of two classes or more", class_names)
    rows = Rows()
    for part, split in folders:
        for folder in list_folders(part):
            if folder.name not in class_of:
                rows.report("other folder", folder, f"expected one of {', '.join(class_of)}")
                continue
            label = class_names.index(class_of[folder.name])
            relative = folder.relative_to(root).as_posix()
            for image in list_images(folder, rows):
                rows.add(f"{relative}/{image}", label, f"{relative}/{image}", split)
    rule = split_by_group(options) if folders == [(root, TRAIN)] else keep_official(options)
    return rows.to_table(title, class_names, root, rule)
