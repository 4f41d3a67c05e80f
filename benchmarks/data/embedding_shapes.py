"""Embeddings of many shapes, synthetic or from scikit-learn's tables, for embedding_labels.py."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from torch import Tensor
from torch.nn import functional as F


class Embedded(NamedTuple):
    """Embeddings (N, D) and their true classes (N,)."""

    embeddings: Tensor
    classes: Tensor

    @property
    def num_classes(self) -> int:
        return int(self.classes.max()) + 1


Shape = Callable[[int], Embedded]


def separated(num_classes: int, count: int, dim: int = 32, spread: float = 2.0) -> Shape:
    """Return one round cluster per class; centres are normal with deviation `spread` per axis."""

    def make(seed: int) -> Embedded:
        generator = torch.Generator().manual_seed(seed)
        classes = torch.arange(num_classes * count) % num_classes
        centers = spread * torch.randn(num_classes, dim, generator=generator)
        return Embedded(_around(centers[classes], generator), classes)

    return make


def elongated(seed: int) -> Embedded:
    """Draw classes that differ along the directions of least variance."""
    data = separated(20, 100, spread=0.0)(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    spread = torch.logspace(-0.5, 1.2, 32)
    centers = 2.4 * torch.randn(20, 32, generator=generator) * spread.clamp(max=1.0)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    return data._replace(embeddings=(centers[data.classes] + data.embeddings * spread) @ turn)


def own_directions(seed: int) -> Embedded:
    """Draw classes that are each elongated in their own direction."""
    generator = torch.Generator().manual_seed(seed + 1)
    data = separated(20, 100)(seed)
    direction = F.normalize(torch.randn(20, 32, generator=generator), dim=-1)
    along = 10 * torch.randn(len(data.classes), 1, generator=generator)
    return data._replace(embeddings=data.embeddings + along * direction[data.classes])


def several(num_classes: int, count: int, dim: int, spread: float) -> Shape:
    """Return four clusters per class."""

    def make(seed: int) -> Embedded:
        data = separated(4 * num_classes, count // 4, dim, spread)(seed)
        return data._replace(classes=data.classes % num_classes)

    return make


def unbalanced(seed: int) -> Embedded:
    """Draw classes of 200 samples down to 4."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (200 * torch.logspace(0, -1.7, 20)).long()
    classes = torch.arange(20).repeat_interleave(sizes)
    centers = torch.randn(20, 32, generator=generator)
    return Embedded(_around(centers[classes], generator), classes)


def flat(seed: int) -> Embedded:
    """Draw 6 dimensions that are mapped to 512, with noise in all."""
    generator = torch.Generator().manual_seed(seed + 1)
    data = separated(20, 100, 6, 1.5)(seed)
    folds = torch.randn(6, 512, generator=generator) / 6**0.5
    folded = torch.relu(data.embeddings @ folds + torch.randn(512, generator=generator))
    return data._replace(embeddings=_around(folded, generator, 0.3))


def unscaled(seed: int) -> Embedded:
    """Draw dimensions with scales from .01 to 100 and offsets."""
    generator = torch.Generator().manual_seed(seed + 1)
    data = separated(20, 100, spread=1.0)(seed)
    scale = 10 ** (4 * torch.rand(32, generator=generator) - 2)
    offset = 100 * torch.randn(32, generator=generator)
    return data._replace(embeddings=data.embeddings * scale + offset)


def small_noise(seed: int) -> Embedded:
    """Draw 4 informative dimensions and 96 small uninformative ones."""
    generator = torch.Generator().manual_seed(seed + 1)
    data = separated(10, 100, 4, 3.0)(seed)
    rest = 0.1 * torch.randn(1000, 96, generator=generator)
    return data._replace(embeddings=torch.cat([data.embeddings, rest], 1))


def far_off(seed: int) -> Embedded:
    """Draw embeddings far from the origin."""
    data = separated(20, 100, spread=1.0)(seed)
    return data._replace(embeddings=data.embeddings + 50)


def rings(seed: int) -> Embedded:
    """Draw three concentric rings."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(900) % 3
    angle = 2 * math.pi * torch.rand(900, generator=generator)
    points = (1.0 + classes).unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
    return Embedded(_around(points, generator, 0.2), classes)


def table(load: Callable[..., tuple[Tensor, Tensor]], fold: str = "") -> Shape:
    """Return a scikit-learn table: raw, as principal components, or as random ReLU features."""

    def make(seed: int) -> Embedded:
        rows, classes = (torch.as_tensor(part) for part in load(return_X_y=True))
        rows = rows.float()
        if fold == "components":
            rows = rows - rows.mean(0)
            rows = rows @ torch.linalg.svd(rows, full_matrices=False).Vh[:20].T
        elif fold == "relu":
            generator = torch.Generator().manual_seed(seed)
            weights = torch.randn(rows.shape[1], 256, generator=generator) / rows.shape[1] ** 0.5
            rows = torch.relu((rows - rows.mean()) / rows.std() @ weights)
        return Embedded(rows, classes.long())

    return make


def _around(centers: Tensor, generator: torch.Generator, spread: float = 1.0) -> Tensor:
    return centers + spread * torch.randn(centers.shape, generator=generator)


SHAPES: dict[str, Shape] = {
    **{
        f"separated, {classes} classes of {count}": separated(classes, count)
        for classes, count in ((2, 50), (2, 1000), (5, 40), (20, 100), (100, 50), (200, 20))
    },
    **{
        f"overlapping, {classes} classes of {count}": separated(classes, count, spread=0.45)
        for classes, count in ((2, 300), (10, 100), (50, 40), (200, 20))
    },
    "overlapping in two dimensions": separated(5, 200, 2),
    "more dimensions than samples": separated(5, 20, 512, 0.35),
    "elongated alike": elongated,
    "elongated, each class its way": own_directions,
    "four clusters a class, 10 classes": several(10, 100, 32, 1.2),
    "four clusters a class, 50 classes": several(50, 80, 64, 1.2),
    "unbalanced 50 to 1": unbalanced,
    "512 dimensions, 6 of them free": flat,
    "unequal scales": unscaled,
    "96 small useless dimensions": small_noise,
    "far from the origin": far_off,
    "rings": rings,
    "digits": table(load_digits),
    "digits, components": table(load_digits, "components"),
    "digits, random ReLU": table(load_digits, "relu"),
    "wine": table(load_wine),
    "breast cancer": table(load_breast_cancer),
    "iris": table(load_iris),
}
