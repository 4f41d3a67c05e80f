"""Labels given by people: how accurate is ours, beside nine methods, with one view and two?

FER2013's labels judged by FER+'s votes (--fer-plus), and CIFAR-10N (--cifar), with a small residual
network, or a perceptron or a linear layer on frozen embeddings (--cache). Epochs are a budget of
forward passes: a method with two views trains for half as many. The last epoch is judged: accuracy
at several class frequencies, calibration, AURC, KL to the votes, and the wrong labels found.
"""

import time
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.data.human_tasks import (
    CIFAR,
    FACES,
    NETWORKS,
    TASKS,
    Folders,
    make_task,
    prepare_embeddings,
)
from benchmarks.measures import human_label_measures, wrong_label_measures
from benchmarks.methods.compared import ON_HUMAN_LABELS
from benchmarks.options import Cache, Cifar, FerPlus, Seeds, one_of
from benchmarks.reports.human_labels import report
from benchmarks.runs import Plan
from benchmarks.training import trained


class Run(NamedTuple):
    """Key of a run; samples 0: all samples."""

    task: str
    network: str
    method: str
    samples: int
    epochs: int
    seed: int


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    task = make_task(run.task, run.network, run.samples, run.seed, folders)
    torch.manual_seed(run.seed)
    start = time.process_time()
    method = trained(partial(ON_HUMAN_LABELS[run.method], budget=run.epochs), task)
    trust = method.trust()
    return {
        **run._asdict(),
        "cpu_seconds": round(time.process_time() - start, 1),
        **human_label_measures(method, task),
        **wrong_label_measures(method, task, trust),
    }


def plan(
    fer_plus: FerPlus = None,
    cifar: Cifar = None,
    cache: Cache = None,
    task: Annotated[list[str] | None, one_of(TASKS)] = None,
    network: Annotated[list[str] | None, one_of(NETWORKS)] = None,
    method: Annotated[list[str] | None, one_of(ON_HUMAN_LABELS)] = None,
    samples: Annotated[int, typer.Option(min=0, help="Number of training samples; 0: all.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Forward passes per sample.")] = 20,
    seeds: Seeds = 3,
) -> Plan:
    """Plan the runs on the data sets whose folders are given; the network is small-resnet."""
    there = [*(FACES if fer_plus else ()), *(CIFAR if cifar else ())]
    networks = network or ["small-resnet"]
    if unknown := [name for name in task or () if name not in there]:
        raise typer.BadParameter(f"must come with the folder of its data; got {', '.join(unknown)}")
    if cache is None and networks != ["small-resnet"]:
        raise typer.BadParameter("--cache must name a folder for embeddings; got none")
    # Methods innermost: results of a stopped run compare methods on the same seeds.
    runs = [
        Run(task_name, network_name, method_name, samples, epochs, seed)
        for seed in range(seeds)
        for network_name in networks
        for task_name in task or there
        for method_name in method or ON_HUMAN_LABELS
    ]
    folders = Folders(fer_plus, cifar, cache)
    prepare = partial(prepare_embeddings, folders)
    return Plan(Run, partial(do_run, folders=folders), runs, report, prepare=prepare)
