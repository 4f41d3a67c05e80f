"""The training that all methods share, and what is done with a trained one."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.data.task import Task
from benchmarks.methods.base import Method, predict

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 2e-3, 1e-3
FOLDS = 5

MethodT = TypeVar("MethodT", bound=Method)


def trained(
    make: Callable[[Task], MethodT], task: Task, learning_rate: float = LEARNING_RATE
) -> MethodT:
    """Return a method, trained for its epochs with AdamW and the one-cycle schedule."""
    method = make(task)
    train(method, task, learning_rate)
    return method


def train(method: Method, task: Task, learning_rate: float = LEARNING_RATE) -> None:
    """Train with AdamW and the one-cycle schedule, the same for every method.

    The samples of an epoch that do not fill a batch are left out.
    """
    batch_size = min(BATCH_SIZE, len(task.labels))
    steps = len(task.labels) // batch_size
    optimizer = torch.optim.AdamW(
        method.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=method.epochs * steps
    )
    method.train()
    for epoch in range(method.epochs):
        for index in torch.randperm(len(task.labels))[: steps * batch_size].split(batch_size):
            loss = method.loss(index, task.inputs[index], task.labels[index], epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def cross_validated(fit: Callable[[Task], Method], task: Task, order: Tensor) -> Tensor:
    """Return 5-fold cross-validated probabilities (N, C), with folds in this order."""
    probs = torch.zeros(len(order), task.num_classes)
    for held_out in order.chunk(FOLDS):
        kept = torch.ones(len(order), dtype=torch.bool)
        kept[held_out] = False
        probs[held_out] = predict(fit(task.rows(kept)), task.inputs[held_out]).exp()
    return probs
