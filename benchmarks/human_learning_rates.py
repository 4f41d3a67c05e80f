"""Would another learning rate change the comparison on human labels?

    python benchmarks/human_learning_rates.py --fer-plus FOLDER --cifar FOLDER --cache FOLDER

Every method trains on four fifths of the noisy labels, at each learning rate, and is judged on the
true labels of the other fifth. Network, budget and methods are those of `human_labels.py` with
frozen embeddings. Every run is one line of `results/human_learning_rates.jsonl`, and finished runs
are skipped. Renders `results/human_learning_rates.md`.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import typer
from human_methods import METHODS
from human_tasks import Folders, HumanTask, make_task
from measures import mean_and_interval, measures_by_frequency
from resumable import read_lines, run_all
from robustness_runs import predict, train

from examples.result_files import save_text

RESULTS = Path(__file__).parent / "results"
RATES = (1e-3, 2e-3, 4e-3)
TASKS = ("fer2013", "cifar-random1")
COMPARED = ("cross-entropy", "GCE", "ELR", "SOP", "ours", "ELR+", "SOP+", "ours, two views")
SAMPLES, EPOCHS = 10_000, 20
INTRODUCTION = """\
# Learning rates on human labels

By `python benchmarks/human_learning_rates.py`, from `human_learning_rates.jsonl`. Accuracy in
percent on the true labels of a fifth of the samples, which was not trained on: 10,000 samples, a
perceptron on frozen embeddings, 20 forward passes for each sample, means over {seeds} seeds. The
best rate of each method is **bold**. `human_labels.py` uses 0.002 for all methods."""


class Run(NamedTuple):
    """Identifies a run."""

    task: str
    method: str
    learning_rate: float
    seed: int


def without_last_fifth(task: HumanTask) -> HumanTask:
    """Return the task without the samples that the learning rate is judged on."""
    return task.rows(slice(len(task.data.labels) * 4 // 5))


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train to the last epoch and evaluate on the last fifth."""
    torch.set_num_threads(1)
    task = make_task(run.task, "embeddings", SAMPLES, run.seed, folders)
    part = without_last_fifth(task)
    torch.manual_seed(run.seed)
    method = METHODS[run.method](part, EPOCHS)
    train(method, part.data, method.epochs, run.learning_rate)
    count = len(part.data.labels)
    known = task.is_known[count:]
    measures = measures_by_frequency(
        predict(method, task.data.inputs[count:][known]),
        labels=task.data.truth[count:][known].argmax(1),
        class_counts=method.labels.sum(0),
        for_even_classes=method.for_even_classes,
    )
    return {**run._asdict(), **measures}


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `human_learning_rates.md` and return it."""
    seeds = {line["seed"] for line in lines}
    parts = [INTRODUCTION.format(seeds=len(seeds))]
    for task in TASKS:
        parts += ["", f"## {task}", "", "| method | " + " | ".join(map(str, RATES)) + " |"]
        parts += ["|---" * (len(RATES) + 1) + "|"]
        for method in COMPARED:
            found = [
                [
                    line["accuracy"]
                    for line in lines
                    if (line["task"], line["method"], line["learning_rate"]) == (task, method, rate)
                ]
                for rate in RATES
            ]
            means = [mean_and_interval(each)[0] if each else float("nan") for each in found]
            cells = [f"**{mean:.1f}**" if mean == max(means) else f"{mean:.1f}" for mean in means]
            parts.append(f"| {method} | " + " | ".join(cells) + " |")
    text = "\n".join(parts) + "\n"
    save_text(results / "human_learning_rates.md", text)
    return text


def main(
    fer_plus: Annotated[Path | None, typer.Option(help="Folder of FER+.")] = None,
    cifar: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10N.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the embeddings.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all that is there."""
    folders = Folders(fer_plus, cifar, cache)
    if not render_only and None in folders:
        raise typer.BadParameter("--fer-plus, --cifar and --cache must name folders; got fewer")
    path = results / "human_learning_rates.jsonl"
    runs = [
        Run(task, method, rate, seed)
        for seed in range(seeds)
        for task in TASKS
        for method in COMPARED
        for rate in RATES
    ]
    if not render_only:
        run_all(partial(do_run, folders=folders), runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
