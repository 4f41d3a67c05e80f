"""Corruptions of labels: functions from a task and a seed to a corrupted task."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.data.task import Task
from reliability_balance.data import pair_noise, symmetric_noise

Corruption = Callable[[Task, int], Task]


def clean(task: Task, seed: int) -> Task:
    """Return the task unchanged."""
    return task


def symmetric(rate: float) -> Corruption:
    """Return symmetric noise: a share of the labels is flipped to any other class."""
    return lambda task, seed: task._replace(
        labels=symmetric_noise(task.labels, rate, task.num_classes, seed=seed)
    )


def pair(rate: float) -> Corruption:
    """Return pair noise: a share of the labels is flipped to the next class."""
    return lambda task, seed: task._replace(
        labels=pair_noise(task.labels, rate, task.num_classes, seed=seed)
    )


def instance(rate: float) -> Corruption:
    """Return instance-dependent noise: samples most similar to another class get its label.

    Similarity is the score of a linear classifier, fitted on these samples' true labels, plus noise
    of one logit.
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
    """Blend a third of the images with another one; draw their labels from the blend."""
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
    """Return class imbalance: counts fall geometrically to 1/ratio of the first class."""

    def corrupt(task: Task, seed: int) -> Task:
        share = ratio ** (-torch.arange(task.num_classes) / (task.num_classes - 1))
        draw = torch.rand(len(task.labels), generator=torch.Generator().manual_seed(seed))
        kept = draw < share[task.labels]
        return task.rows(kept)

    return corrupt


def both(first: Corruption, second: Corruption) -> Corruption:
    """Return both corruptions, applied in order."""
    return lambda task, seed: second(first(task, seed), seed)


def _linear_scores(task: Task, seed: int) -> Tensor:
    """Return log-probabilities of a ridge classifier with noise of one logit."""
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
