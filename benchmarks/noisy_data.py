"""What can be wrong with labels: functions from a task and a seed to a corrupted task."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reliability_balance.data import pair_noise, symmetric_noise


class Task(NamedTuple):
    """Training inputs (N, D) with given labels (N,) and true distributions (N, C); a test set."""

    inputs: Tensor
    labels: Tensor
    truth: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int


Corruption = Callable[[Task, int], Task]


def class_counts(task: Task) -> Tensor:
    """Given labels of each class (C,), and one more, since a rare one may be missing."""
    return task.labels.bincount(minlength=task.num_classes) + 1


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

    How alike is told by a linear classifier of these samples by their true labels, with noise of
    one logit, so that which samples are wrong depends on the image.
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
