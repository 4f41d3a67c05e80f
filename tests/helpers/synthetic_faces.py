"""Small tables of faces that are no faces, but can be learned; for the tests of the application."""

import torch
from torch import Tensor

from examples.arbex.faces.face_table import FaceTable


class HeldImages:
    """Images in memory."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.images[index]

    def fingerprint(self, index: int, contents: bool, /) -> bytes:
        return self.images[index].numpy().tobytes()


def synthetic_table(
    count: int = 96,
    class_names: tuple[str, ...] = ("angry", "happy", "sad"),
    *,
    size: int = 16,
    seed: int = 0,
) -> FaceTable:
    """A bright square whose place tells the class; two thirds to train, the rest split in two."""
    generator = torch.Generator().manual_seed(seed)
    num_classes = len(class_names)
    labels = torch.arange(count) % num_classes
    images = torch.randint(0, 120, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    side = size // num_classes
    for row, label in enumerate(labels.tolist()):
        images[row, :, :, label * side : (label + 1) * side] += 120
    splits = torch.zeros(count, dtype=torch.uint8)
    splits[2 * count // 3 : 5 * count // 6], splits[5 * count // 6 :] = 1, 2
    distributions = torch.full((count, num_classes), 0.1 / (num_classes - 1))
    distributions[torch.arange(count), labels] = 0.9
    return FaceTable(
        name="synthetic",
        class_names=class_names,
        images=HeldImages(images),
        names=[f"{row:04}.png" for row in range(count)],
        labels=labels,
        groups=torch.arange(count) % 5,
        splits=splits,
        distributions=distributions,
        true_labels=labels.clone(),
    )
