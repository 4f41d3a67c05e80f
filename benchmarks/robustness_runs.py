"""One run of one method: train to the last epoch with the common budget, and evaluate."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measures import label_measures, prediction_measures
from methods import METHODS, Method, Robust
from noisy_data import CORRUPTIONS, Task
from tasks import DATA
from torch import Tensor

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 2e-3, 1e-3
FOLDS = 5


class Run(NamedTuple):
    """Key of a run."""

    data: str
    corruption: str
    method: str
    seed: int
    epochs: int


def do_run(run: Run) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    make = METHODS[run.method]
    measures = train_and_judge(make, run.data, run.corruption, run.seed, run.epochs)
    return {**run._asdict(), **measures}


def train_and_judge(
    make: Callable[[Task], Method], data: str, corruption: str, seed: int, epochs: int
) -> dict[str, Any]:
    """Train a method to the last epoch; return its seconds and all measures of that epoch."""
    torch.set_num_threads(1)
    task = CORRUPTIONS[corruption](DATA[data](seed), seed)
    torch.manual_seed(seed)
    method = make(task)
    start = time.perf_counter()
    train(method, task, epochs)
    seconds = time.perf_counter() - start
    index = torch.arange(len(task.labels))
    trust = method.targets.trust(index, task.labels) if isinstance(method, Robust) else None
    known = label_measures(predict(method, task.inputs), task.truth, task.labels, trust)
    measures = prediction_measures(predict(method, task.test_inputs), task.test_labels)
    return {"seconds": round(seconds, 1), "samples": len(index), **measures, **known}


def train(method: Method, task: Task, epochs: int, learning_rate: float = LEARNING_RATE) -> None:
    """Train with AdamW and the one-cycle schedule, the same for every method."""
    if isinstance(method, Robust):
        method.begin(epochs)
    steps = len(task.labels) // BATCH_SIZE
    optimizer = torch.optim.AdamW(
        method.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(1, epochs * steps)
    )
    method.train()
    for epoch in range(epochs):
        for index in torch.randperm(len(task.labels))[: steps * BATCH_SIZE].split(BATCH_SIZE):
            loss = method.loss(index, task.inputs[index], task.labels[index], epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def predict(method: Method, inputs: Tensor) -> Tensor:
    """Return log-probabilities in eval mode."""
    method.eval()
    return in_parts(method.log_probs, inputs)


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Call a function on batches of a thousand inputs, and concatenate the results."""
    return torch.cat([function(part) for part in inputs.split(1000)])


def cross_validated(fit: Callable[[Task], Method], task: Task, order: Tensor) -> Tensor:
    """Return 5-fold cross-validated probabilities (N, C), with folds in this order."""
    probs = torch.zeros(len(order), task.num_classes)
    for held_out in order.chunk(FOLDS):
        kept = torch.ones(len(order), dtype=torch.bool)
        kept[held_out] = False
        part = task.rows(kept)
        probs[held_out] = predict(fit(part), task.inputs[held_out]).exp()
    return probs
