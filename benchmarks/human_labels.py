"""Compare our method with others on human labels.

    python benchmarks/human_labels.py --fer-plus FOLDER --cifar FOLDER --epochs 20
    python benchmarks/human_labels.py --cifar FOLDER --cache FOLDER --network embeddings

`human_faces.py` and `cifar_human.py` describe what the folders must hold; tasks without a folder
are skipped. Embeddings of a pre-trained network are cached in the folder `--cache` and computed by
`image_embeddings.py` if missing. Epochs are a budget of forward passes: a method with two passes
per sample trains for half as many. The last epoch is evaluated. Every run is one line of
`results/human_labels.jsonl`, and finished runs are skipped. Renders `results/human_labels.md`.
"""

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import typer
from human_labels_report import write_report
from human_methods import METHODS, HumanMethod, Ours
from human_tasks import CIFAR, FACES, NETWORKS, TASKS, Folders, HumanTask, make_task
from measures import measures_by_frequency, wrong_label_measures
from resumable import read_lines, run_all
from robustness_runs import in_parts, predict, train
from torch import Tensor

RESULTS = Path(__file__).parent / "results"


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
    torch.set_num_threads(1)
    task = make_task(run.task, run.network, run.samples, run.seed, folders)
    torch.manual_seed(run.seed)
    method = METHODS[run.method](task, run.epochs)
    start = time.process_time()
    train(method, task.data, method.epochs)
    trust = method.trust()
    seconds = round(time.process_time() - start, 1)
    return {**run._asdict(), "cpu_seconds": seconds, **judge(method, task, trust)}


def judge(method: HumanMethod, task: HumanTask, trust: Tensor | None) -> dict[str, float]:
    """Return all measures of a trained method; those of the primary branch are named `primary_…`.

    For a method without its own score, the trust in a label is its predicted probability.
    """
    judge_scores = partial(
        measures_by_frequency,
        labels=task.data.test_labels,
        class_counts=method.labels.sum(0),
        for_even_classes=method.for_even_classes,
        votes=task.test_votes,
    )
    measures = judge_scores(predict(method, task.data.test_inputs))
    if isinstance(method, Ours):
        primary = judge_scores(in_parts(method.primary_log_probs, task.data.test_inputs))
        measures |= {f"primary_{name}": value for name, value in primary.items()}
    given = method.labels.argmax(1)
    if trust is None:
        log_probs = predict(method, task.data.inputs)
        trust = log_probs.gather(1, given.unsqueeze(1)).squeeze(1)
    judged = task.is_known & trust.isfinite()
    wrong = given != task.data.truth.argmax(1)
    return {**measures, **wrong_label_measures(trust[judged], wrong[judged])}


def main(
    fer_plus: Annotated[Path | None, typer.Option(help="Folder of FER+.")] = None,
    cifar: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10N.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the embeddings.")] = None,
    task: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(TASKS)}.")] = None,
    network: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(NETWORKS)}.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(METHODS)}.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Number of training samples; 0: all.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Forward passes per sample.")] = 20,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    folders = Folders(fer_plus, cifar, cache)
    there = [
        name for names, folder in ((FACES, fer_plus), (CIFAR, cifar)) if folder for name in names
    ]
    if not there and not render_only:
        raise typer.BadParameter("--fer-plus or --cifar must name a folder; got neither")
    networks = network or ["small-resnet"]
    for given, known in (
        (task or [], TASKS if render_only else there),
        (networks, NETWORKS),
        (method or [], METHODS),
    ):
        if unknown := [name for name in given if name not in known]:
            raise typer.BadParameter(f"must be of {', '.join(known)}; got {', '.join(unknown)}")
    if not render_only and set(networks) - {"small-resnet"} and cache is None:
        raise typer.BadParameter("--cache must name a folder for embeddings; got none")
    path = results / "human_labels.jsonl"
    # Methods innermost: results of a stopped run compare methods on the same seeds.
    runs = [
        Run(task_name, network_name, method_name, samples, epochs, seed)
        for seed in range(seeds)
        for network_name in networks
        for task_name in task or there
        for method_name in method or METHODS
    ]
    if not render_only:
        run_all(partial(do_run, folders=folders), runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
