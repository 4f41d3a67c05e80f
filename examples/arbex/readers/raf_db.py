"""RAF-DB, basic emotions (Li et al., CVPR 2017).

``basic/EmoLabel/list_patition_label.txt`` (so spelled) has rows ``train_00001.jpg 5`` with labels
from 1, and the aligned face is ``basic/Image/aligned/train_00001_aligned.jpg``.
"""

from pathlib import Path

from examples.arbex.faces.face_table import TEST, TRAIN, FaceTable
from examples.arbex.readers.files import list_images, read_lines, read_number, report_unread
from examples.arbex.readers.rows import (
    ReadingError,
    Rows,
    SplitOptions,
    find_file,
    find_folder,
    keep_official,
)

# Label 1 is the first.
CLASS_NAMES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
SPLITS = {"train": TRAIN, "test": TEST}
FORM = "a row like `train_00001.jpg 5`, with a label from 1 to 7"


def read_raf_db(root: Path, options: SplitOptions) -> FaceTable:
    """Read the basic set, with the official test set; validation is taken from training.

    Persons are not identified, so each face is its own group.

    Args:
        root: the parent folder of `basic`, or `basic` itself.
        options: how to choose the validation set.

    Raises:
        FileNotFoundError: if the list or the folder of aligned faces does not exist.
        ReadingError: if a row of the list is invalid, naming its line.
    """
    base = find_folder(root, "basic", ".", what="the folder `basic`")
    listing = find_file(
        base,
        "EmoLabel/list_patition_label.txt",
        "EmoLabel/list_partition_label.txt",
        what="the list of labels",
    )
    folder = find_folder(base, "Image/aligned", what="the aligned faces")
    rows = Rows()
    unlisted = set(list_images(folder, rows))
    report_unread(folder, rows)
    listed: dict[str, str] = {}
    for where, line in read_lines(listing):
        stem, label, split = _parse(where, line, rows)
        if stem in listed:
            raise ReadingError(where, "each image once", f"{stem} again, as on {listed[stem]}")
        listed[stem] = where
        image = f"{stem}_aligned.jpg"
        if image not in unlisted:
            rows.report("missing image", where, f"expected {folder / image}", lost=True)
            continue
        unlisted.remove(image)
        rows.add(f"Image/aligned/{image}", label, stem, split)
    for image in sorted(unlisted):
        detail = f"it is not listed in {listing.name}"
        rows.report("image without row", folder / image, detail, lost=True)
    return rows.to_table("RAF-DB", CLASS_NAMES, base, keep_official(options))


def _parse(where: str, line: str, rows: Rows) -> tuple[str, int, int]:
    columns = line.split()
    if len(columns) < 2:
        raise ReadingError(where, FORM, repr(line))
    if len(columns) > 2:
        rows.report("extra columns", where, f"the first two of {len(columns)} were read")
    stem = Path(columns[0]).stem.removesuffix("_aligned")
    split = SPLITS.get(stem.split("_")[0])
    if split is None:
        raise ReadingError(where, "a name that begins with train_ or test_", repr(columns[0]))
    label = read_number(columns[1], len(CLASS_NAMES) + 1)
    if not label:
        raise ReadingError(where, FORM, repr(columns[1]))
    return stem, label - 1, split
