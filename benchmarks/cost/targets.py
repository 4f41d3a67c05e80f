"""Calls that `scale.py` measures: steps of the targets, beside a linear head, and the ranking."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reliability_balance.labels import RefurbishedTargets, rank_labels
from reliability_balance.labels.rows import SparseRows

BATCH, DIM = 256, 512


def linear_head(classes: int) -> Callable[[], None]:
    """Return a call of forward and backward pass of a linear head."""
    head, inputs = nn.Linear(DIM, classes), torch.randn(BATCH, DIM)
    labels = torch.randint(classes, (BATCH,))

    def call() -> None:
        head.zero_grad()
        nn.functional.cross_entropy(head(inputs), labels).backward()

    return call


def stepper(samples: int, batch: int, classes: int) -> Callable[[], None]:
    """Return a call of one step of targets that have seen an epoch and released held-back labels.

    The batches of an epoch are of different samples, the predictions the same in each batch.
    """
    labels = torch.randint(classes, (samples,))
    targets = RefurbishedTargets(samples, classes, warmup=2, held_for=1)
    targets.expect(labels)
    probs = torch.randn(batch, classes).mul_(2.0).softmax(-1)
    batches = torch.randperm(samples)[: 10_000 // batch * batch].split(batch)
    place = 0

    def call() -> None:
        nonlocal place
        index = batches[place % len(batches)]
        place += 1
        targets(index, labels[index], probs)

    for _ in range(2 * len(batches)):
        call()
    targets.judge_memory()
    return call


def filled(samples: int, classes: int) -> tuple[RefurbishedTargets, Tensor]:
    """Return targets of which each row holds the label and other random classes, and the labels."""
    labels = torch.randint(classes, (samples,))
    targets = RefurbishedTargets(samples, classes)
    targets.expect(labels)
    targets.updates.fill_(targets.warmup + 1)
    stores = [targets.averages]
    if targets.memorization is not None:
        stores.append(targets.memorization.residuals)
    for store in stores:
        assert isinstance(store, SparseRows)
        kept = store.values.shape[1]
        for rows in torch.arange(samples).split(100_000):
            offset = torch.randint(classes - kept, (len(rows), 1))
            others = offset + torch.arange(1, kept + 1)
            others[:, 0] = 0
            store.classes[rows] = ((labels[rows].unsqueeze(-1) + others) % classes).int()
            store.values[rows] = torch.randn(len(rows), kept).mul_(2.0).softmax(-1).half()
            store.rest[rows] = 1e-3
    return targets, labels


def fill_and_step(samples: int, classes: int) -> None:
    """Fill the targets and do five steps."""
    targets, labels = filled(samples, classes)
    probs = torch.randn(BATCH, classes).softmax(-1)
    for _ in range(5):
        index = torch.randint(samples, (BATCH,)).unique()
        targets(index, labels[index], probs[: len(index)])


def fill_and_rank(samples: int, classes: int) -> float:
    """Fill the targets and rank the labels; return the seconds of the ranking."""
    targets, labels = filled(samples, classes)
    start = time.process_time()
    rank_labels(targets, labels)
    return time.process_time() - start
