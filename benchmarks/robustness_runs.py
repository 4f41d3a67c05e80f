"""One run of one method, and many of them: resumable, one process a core, one JSON line a run."""

import json
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measures import label_measures, prediction_measures
from methods import METHODS
from noisy_data import CORRUPTIONS, DATA, Task
from torch import Tensor, nn
from tqdm import tqdm

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 2e-3, 1e-3


class Run(NamedTuple):
    """What names a run."""

    data: str
    corruption: str
    method: str
    seed: int
    epochs: int


def run_all(runs: Iterable[Run], path: Path, workers: int) -> None:
    """Do the runs that the file does not hold yet, and append each as it ends."""
    done = {Run(**{name: line[name] for name in Run._fields}) for line in read_runs(path)}
    missing = [run for run in runs if run not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool, path.open("a") as file:
        futures = [pool.submit(do_run, run) for run in missing]
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The finished runs; a line cut short by a crash counts as none."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def do_run(run: Run) -> dict[str, Any]:
    """Train to the last epoch and judge that one."""
    torch.set_num_threads(1)
    task = CORRUPTIONS[run.corruption](DATA[run.data](run.seed), run.seed)
    torch.manual_seed(run.seed)
    method = METHODS[run.method](task)
    start = time.perf_counter()
    train(method, task, run.epochs)
    seconds = time.perf_counter() - start
    index = torch.arange(len(task.labels))
    trust = method.trust(index, task.labels) if hasattr(method, "trust") else None
    known = label_measures(predict(method, task.inputs), task.truth, task.labels, trust)
    judged = prediction_measures(predict(method, task.test_inputs), task.test_labels)
    return {**run._asdict(), "seconds": round(seconds, 1), "samples": len(index), **judged, **known}


def train(method: nn.Module, task: Task, epochs: int) -> None:
    """AdamW under the one-cycle rule, the same for every method."""
    steps = len(task.labels) // BATCH_SIZE
    optimizer = torch.optim.AdamW(
        method.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(1, epochs * steps)
    )
    method.train()
    for epoch in range(epochs):
        for index in torch.randperm(len(task.labels))[: steps * BATCH_SIZE].split(BATCH_SIZE):
            loss = method.loss(index, task.inputs[index], task.labels[index], epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def predict(method: nn.Module, inputs: Tensor) -> Tensor:
    """Log-probabilities in eval mode."""
    method.eval()
    return torch.cat([method.log_probs(part) for part in inputs.split(1000)])
