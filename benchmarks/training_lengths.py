"""One rule for any length of training? Ours against cross-entropy and two fixed settings.

    python benchmarks/training_lengths.py                      # Fashion-MNIST
    python benchmarks/training_lengths.py --fer-plus FOLDER    # FER2013's labels

The fixed settings are those of the library before it used the length: one refurbishes labels after
three epochs, the other after ten. Fashion-MNIST uses the perceptron of `shared_encoder.py`,
FER2013's labels a small residual network, evaluated on FER+'s votes. The last epoch is evaluated;
every run is one line of `results/training_lengths.jsonl`.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import typer
from augmentation import cropped_at_center, cropped_at_random, standardised
from human_faces import load_human_faces
from matplotlib.figure import Figure
from measures import (
    mean_and_interval,
    measures_by_frequency,
    prediction_measures,
    show_mean,
)
from methods import Method, Robust
from methods_of_others import Classifier
from noisy_data import CORRUPTIONS, Task
from resumable import read_lines, run_all
from robustness_runs import predict, train
from small_resnet import small_resnet
from tasks import DATA
from torch import Tensor, nn
from torch.nn import functional as F

from examples.result_files import open_result, save_text
from reliability_balance import RobustLoss, wrap
from reliability_balance.core import Recipe, get_recipe

RESULTS = Path(__file__).parent / "results"
IMAGES, NOISES, FACES = ["fashion-10k"], ["symmetric-40", "clean"], "FER2013"
LENGTHS = (3, 8, 15, 30, 60, 120)
OURS, CROSS_ENTROPY = "ours", "cross-entropy"
ROBUST = get_recipe("robust")
# The library's former settings, as changes to the robust recipe.
FIXED: dict[str, Recipe] = {
    "doubts after 3 epochs": replace(
        ROBUST,
        momentum=0.9,
        temperature=0.5,
        noise_temperature=1.0,
        prior_count=0.0,
        held_back=0.0,
        warmup=3,
        mixing=1.0,
        mix_from=0.0,
        even_classes=False,
    ),
    "doubts after 10 epochs": replace(ROBUST, held_for=1.0, memory=float("1e9")),
}
COLOURS = {
    CROSS_ENTROPY: "#b5532f",
    "doubts after 3 epochs": "#b9b9b9",
    "doubts after 10 epochs": "#6f8fa3",
    OURS: "#1f6f78",
}
TITLES = {
    ("fashion-10k", "symmetric-40"): "Fashion-MNIST, 40 % wrong labels",
    ("fashion-10k", "clean"): "Fashion-MNIST, clean labels",
}
RECIPES: dict[str, Recipe | None] = {OURS: ROBUST, **FIXED, CROSS_ENTROPY: None}
CROP = 44  # pixels of 48


class Run(NamedTuple):
    """Key of a run."""

    data: str
    labels: str
    method: str
    epochs: int
    seed: int


def do_run(run: Run, folder: Path | None, faces: int) -> dict[str, Any]:
    """Train to the last epoch and evaluate it."""
    torch.set_num_threads(1)
    if folder is not None:
        return {**run._asdict(), **train_on_faces(run, folder, faces)}
    task = CORRUPTIONS[run.labels](DATA[run.data](run.seed), run.seed)
    torch.manual_seed(run.seed)
    method = make(run.method, task)
    train(method, task, run.epochs)
    judged = prediction_measures(predict(method, task.test_inputs), task.test_labels)
    return {**run._asdict(), **judged}


def make(name: str, task: Task) -> Method:
    """Build a method for tasks of tensors."""
    recipe = RECIPES[name]
    if recipe is None:
        return Classifier(task, F.cross_entropy, head=nn.Linear)
    return Robust(task, recipe)


class OfFaces(nn.Module):
    """A small residual network on random crops, with cross-entropy or one of our recipes."""

    def __init__(self, task: Task, recipe: Recipe | None, epochs: int) -> None:
        super().__init__()
        network = small_resnet(1, task.num_classes).to(memory_format=torch.channels_last)
        self.model = network if recipe is None else wrap(network)
        self.criterion = (
            None
            if recipe is None
            else RobustLoss(self.model, task.labels, epochs=epochs, recipe=recipe)
        )

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        output = self.model(cropped_at_random(inputs, CROP))
        if self.criterion is None:
            return F.cross_entropy(output, labels)
        loss: Tensor = self.criterion(output, labels, index)
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        output = self.model(cropped_at_center(inputs, CROP))
        log_probs: Tensor = output.log_softmax(1) if self.criterion is None else output.log_probs
        return log_probs


_load = cache(load_human_faces)


def train_on_faces(run: Run, folder: Path, count: int) -> dict[str, Any]:
    """Train a small residual network on `count` faces; the seed draws faces, crops and weights."""
    data = _load(folder)
    chosen = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(run.seed))[
        :count
    ]
    labels, truth = data.labels[chosen], data.test_votes.argmax(1)
    num_classes = int(data.labels.max()) + 1
    task = Task(
        standardised(data.images[chosen]),
        labels,
        F.one_hot(labels, num_classes).float(),
        standardised(data.test_images),
        truth,
        num_classes,
    )
    recipe = RECIPES[run.method]
    torch.manual_seed(run.seed)
    method = OfFaces(task, recipe, run.epochs)
    train(method, task, run.epochs)
    scores = predict(method, task.test_inputs)
    return measures_by_frequency(
        scores,
        truth,
        labels.bincount(minlength=num_classes),
        for_even_classes=recipe is not None and recipe.even_classes,
    )


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `training_lengths.md` and return it."""
    text = "\n".join(_table(lines))
    save_text(results / "training_lengths.md", text + "\n")
    panels = [panel for panel in TITLES if any(_is_of(line, panel) for line in lines)]
    if panels:
        _draw(lines, panels, results / "training_lengths.png")
    return text


def _is_of(line: dict[str, Any], panel: tuple[str, str]) -> bool:
    return (line["data"], line["labels"]) == panel


def _draw(lines: list[dict[str, Any]], panels: list[tuple[str, str]], path: Path) -> None:
    """Plot accuracy against length, one panel for each data set and its labels."""
    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        for name, colour in COLOURS.items():
            points = [
                (epochs, *mean_and_interval(values))
                for epochs in LENGTHS
                if (
                    values := [
                        line["accuracy"]
                        for line in lines
                        if (line["data"], line["labels"], line["method"], line["epochs"])
                        == (*panel, name, epochs)
                    ]
                )
            ]
            if points:
                lengths, means, intervals = zip(*points, strict=True)
                label = "RobustLoss" if name == OURS else name
                width = 2.2 if name in (OURS, CROSS_ENTROPY) else 1.0
                axis.plot(lengths, means, "o-", color=colour, label=label, lw=width, ms=3.5)
                low, high = (
                    [
                        mean
                        + sign * (each if isfinite(each) and name in (OURS, CROSS_ENTROPY) else 0.0)
                        for mean, each in zip(means, intervals, strict=True)
                    ]
                    for sign in (-1, 1)
                )
                axis.fill_between(lengths, low, high, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LENGTHS, labels=[str(each) for each in LENGTHS])
        axis.minorticks_off()
        axis.set(title=TITLES[panel], xlabel="epochs", ylabel="test accuracy, %")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0][0].legend(frameon=False, fontsize="small")
    with open_result(path) as file:
        figure.savefig(file, dpi=150, format="png")


def _table(lines: list[dict[str, Any]]) -> Iterator[str]:
    yield "# One rule for any length of training\n"
    yield "Percent at the last epoch, mean over seeds with 95 % interval."
    for measure in ("accuracy", "mean class accuracy"):
        yield f"\n## {measure.capitalize()}\n"
        yield from _rows(lines, measure.replace(" ", "_"))


def _rows(lines: list[dict[str, Any]], measure: str) -> Iterator[str]:
    yield "| data | labels | epochs | " + " | ".join(RECIPES) + " | ECE of ours | seeds |"
    yield "|---|---|---|" + "---|" * (len(RECIPES) + 2)
    for data, labels in sorted({(line["data"], line["labels"]) for line in lines}):
        for epochs in LENGTHS:
            here = [
                line
                for line in lines
                if (line["data"], line["labels"], line["epochs"]) == (data, labels, epochs)
            ]
            if not here:
                continue
            by_method = {
                name: [line[measure] for line in here if line["method"] == name] for name in RECIPES
            }
            eces = [line["ece"] for line in here if line["method"] == OURS]
            cells = [show_mean(values, 1) if values else "-" for values in by_method.values()]
            ece = show_mean(eces, 1) if eces else "-"
            seeds = max(map(len, by_method.values()))
            yield f"| {data} | {labels} | {epochs} | {' | '.join(cells)} | {ece} | {seeds} |"


def main(
    data: Annotated[list[str] | None, typer.Option(help="Of tasks.py; default: images.")] = None,
    corruption: Annotated[list[str] | None, typer.Option(help="See noisy_data.py.")] = None,
    fer_plus: Annotated[Path | None, typer.Option(help="Folder of FER+, to train on.")] = None,
    faces: Annotated[int, typer.Option(min=256, help="Number of training faces.")] = 7000,
    method: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(RECIPES)}.")] = None,
    epochs: Annotated[list[int] | None, typer.Option(help="Lengths of training.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    if fer_plus is None:
        kinds = [(each, noise) for each in data or IMAGES for noise in corruption or NOISES]
    else:
        kinds = [(FACES, f"{faces} faces")]
    path = results / "training_lengths.jsonl"
    runs = [
        Run(*kind, name, length, seed)
        for seed in range(seeds)
        for length in epochs or LENGTHS
        for kind in kinds
        for name in method or RECIPES
    ]
    if not render_only:
        run_all(partial(do_run, folder=fer_plus, faces=faces), runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
