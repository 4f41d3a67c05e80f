"""Would another learning rate change the comparison on human labels?

Every method of `human_labels`, on frozen embeddings with the same budget, trains on four fifths of
the noisy labels at three learning rates, and is judged by its accuracy on the true labels of the
other fifth.
"""

from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch

from benchmarks.data.human_tasks import Folders, make_task, prepare_embeddings
from benchmarks.data.task import Task
from benchmarks.measures import human_label_measures
from benchmarks.methods.compared import ON_HUMAN_LABELS
from benchmarks.options import Cache, Cifar, FerPlus, Seeds
from benchmarks.runs import Plan
from benchmarks.tables import markdown, page
from benchmarks.training import trained

RATES = (1e-3, 2e-3, 4e-3)
TASKS = ("fer2013", "cifar-random1")
COMPARED = ("cross-entropy", "GCE", "ELR", "SOP", "ours", "ELR+", "SOP+", "ours, two views")
SAMPLES, EPOCHS = 10_000, 20
INTRODUCTION = """\
By `python -m benchmarks human_learning_rates`, from `human_learning_rates.jsonl`. Accuracy in
percent on the true labels of a fifth of the samples, which was not trained on: 10,000 samples, a
perceptron on frozen embeddings, 20 forward passes for each sample, means over {seeds} seeds. The
best rate of each method is **bold**. `human_labels` uses 0.002 for all methods."""


class Run(NamedTuple):
    """Key of a run."""

    task: str
    method: str
    learning_rate: float
    seed: int


def split(task: Task) -> Task:
    """Return four fifths of the samples, tested on the others that have a clear true class."""
    count = len(task.labels) * 4 // 5
    rest = task.rows(slice(count, None))
    known = slice(None) if rest.is_known is None else rest.is_known
    return task.rows(slice(count))._replace(
        test_inputs=rest.inputs[known],
        test_labels=rest.truth[known].argmax(1),
        test_votes=None,
    )


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    task = split(make_task(run.task, "embeddings", SAMPLES, run.seed, folders))
    torch.manual_seed(run.seed)
    make = partial(ON_HUMAN_LABELS[run.method], budget=EPOCHS)
    method = trained(make, task, run.learning_rate)
    return {**run._asdict(), **human_label_measures(method, task)}


def report(runs: pd.DataFrame) -> str:
    """Format a table of each task; the best rate of each method is bold."""
    parts = [INTRODUCTION.format(seeds=runs["seed"].nunique())]
    means = runs.pivot_table("accuracy", ["task", "method"], "learning_rate")
    for task in TASKS:
        shown = means.reindex([(task, method) for method in COMPARED]).reindex(columns=list(RATES))
        rows = [
            [
                method,
                *(
                    f"**{each:.1f}**" if each == accuracies.max() else f"{each:.1f}"
                    for each in accuracies
                ),
            ]
            for (_, method), accuracies in shown.iterrows()
        ]
        parts += [f"## {task}", markdown(["method", *map(str, RATES)], rows)]
    return page("Learning rates on human labels", *parts)


def plan(
    fer_plus: FerPlus = None, cifar: Cifar = None, cache: Cache = None, seeds: Seeds = 2
) -> Plan:
    """Plan the runs; all three folders are needed."""
    folders = Folders(fer_plus, cifar, cache)
    runs = [
        Run(task, method, rate, seed)
        for seed in range(seeds)
        for task in TASKS
        for method in COMPARED
        for rate in RATES
    ]
    prepare = partial(prepare_embeddings, folders)
    return Plan(Run, partial(do_run, folders=folders), runs, report, prepare=prepare)
