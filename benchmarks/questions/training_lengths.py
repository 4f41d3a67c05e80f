"""Does one rule suit any training length? Ours beside two fixed settings and cross-entropy.

The fixed settings are those of the library before it used the length: one refurbishes labels after
three epochs, the other after ten. Fashion-MNIST uses the common perceptron, FER2013's labels
(--fer-plus) a small residual network, judged by FER+'s votes. Accuracy after 3 to 120 epochs.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.human_tasks import Folders, make_task
from benchmarks.data.tasks import DATA
from benchmarks.measures import measures_by_frequency, prediction_measures
from benchmarks.methods.base import Plain, predict
from benchmarks.methods.compared import ROBUST, Make
from benchmarks.methods.ours import Ours
from benchmarks.options import FerPlus, Seeds, one_of
from benchmarks.reports.training_lengths import (
    AFTER_3,
    AFTER_10,
    CROSS_ENTROPY,
    LENGTHS,
    OURS,
    draw,
    report,
)
from benchmarks.runs import Plan
from benchmarks.training import trained

# The library's former settings, as changes to the robust recipe.
FIXED = {
    AFTER_3: replace(
        ROBUST,
        momentum=0.9,
        temperature=0.5,
        noise_temperature=1.0,
        prior_count=0.0,
        held_back=0.0,
        warmup=3,
        mixing=1.0,
        mix_from=0.0,
        logit_adjustment=False,
    ),
    AFTER_10: replace(ROBUST, held_for=1.0, memory=float("1e9")),
}
METHODS: dict[str, Make] = {
    OURS: Ours,
    **{name: partial(Ours, recipe=recipe) for name, recipe in FIXED.items()},
    CROSS_ENTROPY: Plain,
}
FACES = "FER2013"


class Run(NamedTuple):
    """Key of a run."""

    data: str
    labels: str
    method: str
    epochs: int
    seed: int


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    if run.data == FACES:
        samples = int(run.labels.removesuffix(" faces"))
        task = make_task("fer2013", "small-resnet", samples, run.seed, folders)
        make = METHODS[run.method]
    else:
        task = CORRUPTIONS[run.labels](DATA[run.data](run.seed), run.seed)
        make = METHODS[run.method]
        if run.method != CROSS_ENTROPY:
            make = partial(make, is_wrapped=False)
    torch.manual_seed(run.seed)
    method = trained(partial(make, budget=run.epochs), task)
    log_probs = predict(method, task.test_inputs)
    if run.data == FACES:
        counts = method.shares.sum(0)
        even = method.for_even_classes
        judged = measures_by_frequency(log_probs, task.test_labels, counts, for_even_classes=even)
    else:
        judged = prediction_measures(log_probs, task.test_labels)
    return {**run._asdict(), **judged}


def plan(
    data: Annotated[list[str] | None, one_of(DATA)] = None,
    corruption: Annotated[list[str] | None, one_of(CORRUPTIONS)] = None,
    fer_plus: FerPlus = None,
    faces: Annotated[int, typer.Option(min=256, help="Number of training faces.")] = 7000,
    method: Annotated[list[str] | None, one_of(METHODS)] = None,
    epochs: Annotated[list[int] | None, typer.Option(help="Lengths of training.")] = None,
    seeds: Seeds = 3,
) -> Plan:
    """Plan the runs: on Fashion-MNIST, or on faces where their folder is given."""
    tasks = [(FACES, f"{faces} faces")]
    if fer_plus is None:
        corruptions = corruption or ["symmetric-40", "clean"]
        tasks = [(each, noise) for each in data or ["fashion-10k"] for noise in corruptions]
    runs = [
        Run(*task, name, length, seed)
        for seed in range(seeds)
        for length in epochs or LENGTHS
        for task in tasks
        for name in method or METHODS
    ]
    return Plan(Run, partial(do_run, folders=Folders(fer_plus)), runs, report, draw)
