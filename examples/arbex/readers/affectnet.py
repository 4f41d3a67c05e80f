"""AffectNet (Mollahosseini et al., 2017): class folders, or the authors' annotation files.

The authors publish ``train_set/images/N.jpg`` and ``train_set/annotations/N_exp.npy``; copies have
``train/0`` … ``train/7``, or folders named after the expression. Codes are 0 neutral, 1 happiness,
2 sadness, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt, in any order of the folders.
"""

from pathlib import Path

import numpy as np

from examples.arbex.faces.face_table import TEST, TRAIN, FaceTable
from examples.arbex.readers.class_folders import read_named_folders
from examples.arbex.readers.expressions import expression_name
from examples.arbex.readers.files import list_images, report_unread
from examples.arbex.readers.rows import ReadingError, Rows, SplitOptions, keep_official

CLASS_NAMES = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)
NOT_EXPRESSIONS = 10  # codes 8 to 10 are none, uncertain and no face
ANNOTATION = "_exp.npy"


def read_affectnet(root: Path, options: SplitOptions) -> FaceTable:
    """Read any of the layouts; the official validation set is the test set, as none is published.

    Contempt is a class only if it occurs, so 7-class copies have 7 classes.

    Args:
        root: the folder of the splits.
        options: how to choose the validation set from training.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ReadingError: if there is no image, or an annotation is invalid.
    """
    if (root / "train_set").is_dir():
        return _read_annotated(root, options)
    no_classes = [str(code) for code in range(len(CLASS_NAMES), NOT_EXPRESSIONS + 1)]
    return read_named_folders(
        "AffectNet", root, _class_of, options, class_order=CLASS_NAMES, no_classes=no_classes
    )


def _class_of(folder: str) -> str | None:
    if folder.isdecimal() and int(folder) < len(CLASS_NAMES):
        return CLASS_NAMES[int(folder)]
    name = expression_name(folder)
    return name if name in CLASS_NAMES else None


def _read_annotated(root: Path, options: SplitOptions) -> FaceTable:
    rows = Rows()
    for part, split in (("train_set", TRAIN), ("val_set", TEST)):
        images, annotations = root / part / "images", root / part / "annotations"
        for folder in (images, annotations):
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: expected a folder; it does not exist")
        annotated = {
            path.name.removesuffix(ANNOTATION): path for path in annotations.glob(f"*{ANNOTATION}")
        }
        for image in list_images(images, rows):
            path = annotated.pop(Path(image).stem, None)
            if path is None:
                expected = annotations / f"{Path(image).stem}{ANNOTATION}"
                rows.report("image without row", images / image, f"expected {expected}", lost=True)
                continue
            code = _read_code(path)
            if code >= len(CLASS_NAMES):
                rows.report("no expression", images / image, f"code {code} was left out")
                continue
            rows.add(f"{part}/images/{image}", code, f"{part}/{image}", split)
        for stem, path in sorted(annotated.items()):
            rows.report("missing image", path, f"expected {images / stem}.jpg", lost=True)
        report_unread(images, rows)
    has_contempt = len(CLASS_NAMES) - 1 in rows.labels
    class_names = CLASS_NAMES if has_contempt else CLASS_NAMES[:-1]
    return rows.to_table("AffectNet", class_names, root, keep_official(options))


def _read_code(path: Path) -> int:
    expected = f"one code from 0 to {NOT_EXPRESSIONS}"
    try:
        # Memory-mapped, so that a header that declares a huge array cannot exhaust the memory.
        code = int(np.load(path, mmap_mode="r", allow_pickle=False).item())
    except PermissionError:
        raise
    except Exception as error:  # numpy can raise anything on a damaged header
        raise ReadingError(path, expected, error) from error
    if not 0 <= code <= NOT_EXPRESSIONS:
        raise ReadingError(path, expected, code)
    return code
