"""Noisy, ambiguous and imbalanced labels: how accurate is `RobustLoss`, beside thirteen methods?

All methods train the same perceptron for the same epochs on each data set of `data/tasks.py` with
each corruption of `data/corruptions.py`; the last epoch is judged on a clean test set: accuracy,
calibration, risk against coverage, and how well wrong labels are found.
"""

import time
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.measures import kl_divergence, prediction_measures, wrong_label_measures
from benchmarks.methods.base import predict
from benchmarks.methods.compared import ON_PIXELS, Make
from benchmarks.options import Epochs, Quick, Seeds, one_of
from benchmarks.reports.robustness import OURS, draw, report
from benchmarks.runs import Plan
from benchmarks.training import trained


class Run(NamedTuple):
    """Key of a run."""

    data: str
    corruption: str
    method: str
    seed: int
    epochs: int


def do_run(run: Run) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    make = ON_PIXELS[run.method]
    return {**run._asdict(), **judged(make, run.data, run.corruption, run.seed, run.epochs)}


def judged(make: Make, data: str, corruption: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train a method to the last epoch; return its seconds and all measures of that epoch."""
    task = CORRUPTIONS[corruption](DATA[data](seed), seed)
    torch.manual_seed(seed)
    start = time.perf_counter()
    method = trained(partial(make, budget=epochs), task)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "samples": len(task.labels),
        **prediction_measures(predict(method, task.test_inputs), task.test_labels),
        "kl_to_truth": kl_divergence(task.truth, predict(method, task.inputs)),
        **wrong_label_measures(method, task, method.trust()),
    }


def plan(
    quick: Quick = False,
    data: Annotated[list[str] | None, one_of(DATA)] = None,
    corruption: Annotated[list[str] | None, one_of(CORRUPTIONS)] = None,
    method: Annotated[list[str] | None, one_of(ON_PIXELS)] = None,
    seeds: Seeds = 5,
    epochs: Epochs = 30,
) -> Plan:
    """Plan the runs; `quick` is three noises, five methods and one seed, in minutes."""
    corruptions, methods, data_sets = list(CORRUPTIONS), list(ON_PIXELS), list(DATA)
    if quick:
        corruptions, data_sets, seeds = ["clean", "symmetric-40", "pair-30"], ["fashion-10k"], 1
        methods = ["cross-entropy", "GCE", "ELR", "ours, paper", OURS]
    # Methods innermost: results of a stopped run compare methods on the same seeds.
    runs = [
        Run(data_name, corruption_name, method_name, FIRST_SEED + seed, epochs)
        for data_name in data or data_sets
        for seed in range(seeds)
        for corruption_name in corruption or corruptions
        for method_name in method or methods
    ]
    return Plan(Run, do_run, runs, report, draw)
