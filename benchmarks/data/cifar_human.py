"""CIFAR-10 with human labels (CIFAR-10N, Wei et al., ICLR 2022).

Provide the folder in one of two layouts: torchvision's `cifar-10-batches-py` with
`CIFAR-10_human.pt` in it or beside it, or `cifar10n.npz`: JPEG bytes (`train_jpeg`, `test_jpeg`)
with the offset of each image and of the end (`train_offsets`, `test_offsets`), `test_labels`, and
the label sets `train_clean`, `train_aggre` and `train_random1`.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PACKED, BATCHES, HUMAN = "cifar10n.npz", "cifar-10-batches-py", "CIFAR-10_human.pt"
# Our names of the label sets, and their names in the official file.
LABEL_SETS = {"clean": "clean_label", "aggre": "aggre_label", "random1": "random_label1"}


class HumanCifar(NamedTuple):
    """Images (N, 3, 32, 32) uint8, labels (N,) by label set, and a test set."""

    images: Tensor
    labels: dict[str, Tensor]
    test_images: Tensor
    test_labels: Tensor


def load_human_cifar(folder: Path) -> HumanCifar:
    """Read either layout.

    Raises:
        FileNotFoundError: if the folder has neither.
        ValueError: if the parts do not belong together.
    """
    if (folder / PACKED).is_file():
        data = _read_packed(folder / PACKED)
    elif (folder / BATCHES).is_dir():
        data = _read_batches(folder)
    else:
        raise FileNotFoundError(f"{folder} must hold {PACKED}, or {BATCHES} and {HUMAN}")
    for name, labels in data.labels.items():
        if len(labels) != len(data.images):
            raise ValueError(
                f"the labels {name} must be of {len(data.images)} images; got {len(labels)}"
            )
    return data


def _read_packed(path: Path) -> HumanCifar:
    with np.load(path, allow_pickle=False) as file:
        return HumanCifar(
            _decode(file["train_jpeg"], file["train_offsets"]),
            {name: _labels(file[f"train_{name}"]) for name in LABEL_SETS},
            _decode(file["test_jpeg"], file["test_offsets"]),
            _labels(file["test_labels"]),
        )


def _decode(content: np.ndarray, offsets: np.ndarray) -> Tensor:
    images = [
        np.asarray(Image.open(io.BytesIO(content[begin:end].tobytes())).convert("RGB"))
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _read_batches(folder: Path) -> HumanCifar:
    from torchvision.datasets import CIFAR10

    human = next((each for each in (folder, folder / BATCHES) if (each / HUMAN).is_file()), None)
    if human is None:
        raise FileNotFoundError(f"{HUMAN} must lie in {folder} or in its {BATCHES}")
    # torchvision verifies the files' checksums.
    train, test = (CIFAR10(str(folder), train=part) for part in (True, False))
    given = load_label_sets(human / HUMAN)
    if not torch.equal(given["clean"], torch.tensor(train.targets)):
        raise ValueError(f"{HUMAN} must have the labels of {BATCHES} as {LABEL_SETS['clean']}")
    images, test_images = (
        torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)
    )
    return HumanCifar(images, given, test_images, torch.tensor(test.targets))


def load_label_sets(path: Path) -> dict[str, Tensor]:
    """Read `CIFAR-10_human.pt`, a dict of arrays, without executing code in it.

    Raises:
        ValueError: if it holds anything except numeric arrays, or lacks a label set.
    """
    rebuild = np.empty(0).__reduce__()[0]
    integers = [type(np.dtype(name)) for name in ("uint8", "int32", "int64")]
    # The function is in different modules in numpy 1 and 2.
    names = [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    known: list[Any] = [np.ndarray, np.dtype, *integers, *((rebuild, name) for name in names)]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} must hold arrays of labels alone; got {error}") from error
    missing = [key for key in LABEL_SETS.values() if key not in content]
    if missing:
        raise ValueError(f"{path} must have the label sets {', '.join(missing)}")
    return {name: _labels(np.asarray(content[key])) for name, key in LABEL_SETS.items()}


def _labels(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
