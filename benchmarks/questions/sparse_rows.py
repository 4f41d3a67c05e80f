"""What does it cost to store only the largest beliefs of a sample?

With more than 32 classes, `RobustLoss` stores 15 beliefs of each sample. Here it stores 4, in half
precision, on data of 7 to 10 classes, and is compared with itself storing all: on ten settings of
`python -m benchmarks robustness`, and with --fer-plus and --cache on faces with human labels.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import typer

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.human_tasks import Folders, make_task, prepare_embeddings
from benchmarks.data.task import Task
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.measures import prediction_measures, wrong_label_measures
from benchmarks.methods.base import predict
from benchmarks.methods.ours import Ours
from benchmarks.options import Cache, FerPlus, Seeds
from benchmarks.reports.sparse_rows import report
from benchmarks.runs import Plan
from benchmarks.training import trained

KEPT, ALL = 4, 0
FACES = ("fer2013", "fer-majority")
SETTINGS = (
    *(
        ("fashion-10k", labels)
        for labels in ("clean", "symmetric-40", "pair-30", "instance-40", "ambiguous")
    ),
    ("fashion-10k", "imbalance-17+symmetric-40"),
    ("digits-4k", "symmetric-40"),
    *(("faces-7k", labels) for labels in ("symmetric-40", "pair-30", "instance-40")),
)


class Run(NamedTuple):
    """Key of a run; kept 0: all classes."""

    data: str
    labels: str
    kept: int
    seed: int


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    task, make, budget = _setting(run, folders)
    torch.manual_seed(run.seed)
    method = trained(partial(make, budget=budget, kept=run.kept or None), task)
    return {
        **run._asdict(),
        "classes": task.num_classes,
        **prediction_measures(predict(method, task.test_inputs), task.test_labels),
        **wrong_label_measures(method, task, method.trust()),
    }


def _setting(run: Run, folders: Folders) -> tuple[Task, partial[Ours], int]:
    """Return the task, the method, and the epochs, as the benchmarks of these data have them."""
    if run.data in FACES:
        return make_task(run.data, "embeddings", 10_000, run.seed, folders), partial(Ours), 20
    task = CORRUPTIONS[run.labels](DATA[run.data](run.seed), run.seed)
    return task, partial(Ours, is_wrapped=False), 30


def plan(fer_plus: FerPlus = None, cache: Cache = None, seeds: Seeds = 3) -> Plan:
    """Plan the runs; faces where their folder is given."""
    if (fer_plus is None) is not (cache is None):
        raise typer.BadParameter("--fer-plus and --cache must be given together; got one")
    faces = [(name, "human") for name in FACES] if fer_plus else []
    folders = Folders(fer_plus, cache=cache)
    runs = [
        Run(data, labels, kept, FIRST_SEED + seed)
        for seed in range(seeds)
        for data, labels in [*SETTINGS, *faces]
        for kept in (ALL, KEPT)
    ]
    prepare = partial(prepare_embeddings, folders)
    return Plan(Run, partial(do_run, folders=folders), runs, report, prepare=prepare)
