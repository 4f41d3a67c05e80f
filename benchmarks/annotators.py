"""Train on labels of several annotators: ours against Dawid-Skene, cleanlab and majority votes.

    python benchmarks/annotators.py                     # all; can be stopped and resumed
    python benchmarks/annotators.py --data digits-4k    # one data set

Ten simulated annotators of unequal quality, each with their own confusions, give 1 to 4 labels per
sample. All methods train the same encoder for the same epochs. Every run is one line of
`results/annotators.jsonl`; finished runs are skipped. Renders `results/annotators.md`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import torch
import typer
from cleanlab.multiannotator import get_label_quality_multiannotator
from crowdkit.aggregation import DawidSkene
from measures import mean_and_interval, show_mean
from methods import Method, Robust
from methods_of_others import Classifier
from noisy_data import Task
from resumable import read_lines, run_all
from robustness_runs import cross_validated, predict, train
from shared_encoder import EMBEDDING_DIM
from tasks import DATA as LARGE_DATA
from tasks import FIRST_SEED, fashion
from torch import Tensor, nn
from torch.nn import functional as F

from examples.result_files import save_text

RESULTS = Path(__file__).parent / "results"
DATA: dict[str, Callable[[int], Task]] = {
    "digits-4k": LARGE_DATA["digits-4k"],
    "fashion-4k": lambda seed: fashion(4_000, seed),
}
NUM_ANNOTATORS, MOST_LABELS = 10, 4
EPOCHS, WIDTH = 20, 128
OURS = "ours, annotators"
METHODS = (
    "majority vote",
    "vote shares",
    "Dawid-Skene, labels",
    "Dawid-Skene, posteriors",
    "cleanlab consensus",
    "ours, vote shares",
    OURS,
    "true labels",
)


class Run(NamedTuple):
    """Key of a run: a data set and a seed; all methods see the same labels."""

    data: str
    seed: int


def annotator_matrices(num_classes: int, generator: torch.Generator) -> Tensor:
    """Draw noise matrices (A, C, C): 40 to 90 % right, with up to ±10 points per class.

    Most errors go to a few wrong classes, which differ between annotators.
    """
    quality = torch.linspace(0.4, 0.9, NUM_ANNOTATORS).view(-1, 1)
    by_class = torch.rand(NUM_ANNOTATORS, num_classes, generator=generator)
    right = (quality + 0.2 * (by_class - 0.5)).clamp(0.3, 0.98)
    wrong = torch.rand(NUM_ANNOTATORS, num_classes, num_classes, generator=generator) ** 4
    wrong.diagonal(dim1=1, dim2=2).zero_()
    matrices = (1.0 - right).unsqueeze(-1) * wrong / wrong.sum(-1, keepdim=True)
    return matrices + torch.diag_embed(right)


def draw_labels(classes: Tensor, matrices: Tensor, generator: torch.Generator) -> Tensor:
    """Draw labels (N, A), -1 for none: 1 to 4 for each sample, from random annotators."""
    every = torch.stack(
        [torch.multinomial(m[classes], 1, generator=generator).squeeze(1) for m in matrices], 1
    )
    count = torch.randint(1, MOST_LABELS + 1, (len(classes), 1), generator=generator)
    order = torch.rand(every.shape, generator=generator).argsort(1).argsort(1)
    return every.where(order < count, -1)


def vote_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return the votes for each class (N, C)."""
    return F.one_hot(labels + 1, num_classes + 1)[..., 1:].sum(1)


def majority(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Return the most frequent label (N,); ties are broken at random."""
    counts = vote_counts(labels, num_classes).float()
    return (counts + 0.5 * torch.rand(counts.shape, generator=generator)).argmax(1)


def dawid_skene(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return crowd-kit's posteriors (N, C) and matrices (A, C, C); uniform if undetermined."""
    task, worker = (labels >= 0).nonzero(as_tuple=True)
    table = pd.DataFrame({"task": task, "worker": worker, "label": labels[task, worker]})
    model = DawidSkene(n_iter=100).fit(table)
    assert model.probas_ is not None and model.errors_ is not None  # noqa: PT018
    classes, annotators = range(num_classes), range(labels.shape[1])
    found = model.probas_.reindex(index=range(len(labels)), columns=classes, fill_value=0.0)
    rows = pd.MultiIndex.from_product([annotators, classes], names=["worker", "label"])
    errors = model.errors_.reindex(index=rows, columns=classes, fill_value=0.0)
    # In crowd-kit, rows are labels and columns are true classes.
    matrices = torch.from_numpy(errors.to_numpy(copy=True)).float()
    matrices = matrices.view(len(annotators), num_classes, num_classes).transpose(1, 2)
    sums = matrices.sum(-1, keepdim=True)
    matrices = torch.where(sums > 0, matrices / sums.clamp_min(1e-9), 1.0 / num_classes)
    return torch.from_numpy(found.to_numpy(copy=True)).float(), matrices


def small(method: Any, width: int) -> Any:
    """Give a method the same small encoder as all others, for inputs of this width."""
    method.encoder = nn.Sequential(
        nn.Linear(width, WIDTH), nn.ReLU(), nn.Linear(WIDTH, EMBEDDING_DIM), nn.ReLU()
    )
    return method


def trained(make: Callable[[Task], Method], task: Task, labels: Tensor, seed: int) -> Any:
    """Return a method trained on these labels."""
    torch.manual_seed(seed)
    task = task._replace(labels=labels)
    method = small(make(task), task.inputs.shape[1])
    train(method, task, EPOCHS)
    return method


def cross_entropy(task: Task) -> Method:
    """Return cross-entropy on indices or class probabilities, with the paper's MLP head."""
    return Classifier(task, F.cross_entropy)


def cleanlab_consensus(task: Task, labels: Tensor, voted: Tensor, seed: int) -> Tensor:
    """Return cleanlab's consensus labels (N,), from votes and cross-validated predictions."""
    order = torch.randperm(len(voted), generator=torch.Generator().manual_seed(seed))
    probs = cross_validated(
        lambda part: trained(cross_entropy, part, part.labels, seed),
        task._replace(labels=voted),
        order,
    )
    given = labels.double().numpy()
    given[given < 0] = np.nan
    found = get_label_quality_multiannotator(
        pd.DataFrame(given), probs.double().numpy(), verbose=False
    )
    return torch.from_numpy(found["label_quality"]["consensus_label"].to_numpy(copy=True)).long()


def do_run(run: Run) -> dict[str, Any]:
    """Return accuracy, right consensus labels, matrix error and CPU seconds of each method."""
    torch.set_num_threads(1)
    task = DATA[run.data](run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    classes, num_classes = task.labels, task.num_classes
    matrices = annotator_matrices(num_classes, generator)
    labels = draw_labels(classes, matrices, generator)
    voted = majority(labels, num_classes, generator)
    counts = vote_counts(labels, num_classes).float()
    shares = counts / counts.sum(1, keepdim=True)
    found: dict[str, dict[str, float]] = {}
    for name in METHODS:
        start = time.process_time()
        wanted, consensus, learned, make = labels, None, None, cross_entropy
        if name == "majority vote":
            wanted = consensus = voted
        elif name == "vote shares":
            wanted = shares
        elif name.startswith("Dawid-Skene"):
            posterior, learned = dawid_skene(labels, num_classes)
            consensus = posterior.argmax(1)
            wanted = consensus if name.endswith("labels") else posterior
        elif name == "cleanlab consensus":
            wanted = consensus = cleanlab_consensus(task, labels, voted, run.seed)
        elif name == "true labels":
            wanted = classes
        else:
            make, wanted = Robust, labels if name == OURS else shares
        method = trained(make, task, wanted, run.seed)
        if isinstance(method, Robust):
            ranking = method.robust.doubtful_labels()
            consensus = ranking.suggested[ranking.sample.argsort()]
            learned = method.robust.annotator_matrices
        seconds = time.process_time() - start
        predicted = predict(method, task.test_inputs).argmax(1)
        found[name] = {
            "accuracy": 100 * float((predicted == task.test_labels).double().mean()),
            "cpu": round(seconds, 1),
        }
        if consensus is not None:
            found[name]["consensus"] = 100 * float((consensus == classes).double().mean())
        if learned is not None:
            found[name]["matrix_error"] = 100 * float((learned - matrices).abs().mean())
    single = labels[labels >= 0] == classes.unsqueeze(1).expand_as(labels)[labels >= 0]
    return {
        **run._asdict(),
        "labels": float((labels >= 0).sum(1).double().mean()),
        "right": 100 * float(single.double().mean()),
        "found": found,
    }


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `annotators.md` and return it."""
    parts = [
        "# Labels of several annotators",
        "",
        "By `python benchmarks/annotators.py`, from `annotators.jsonl`. "
        f"{NUM_ANNOTATORS} simulated annotators, 1 to {MOST_LABELS} labels per sample. All "
        f"methods: encoder 784-{WIDTH}-{EMBEDDING_DIM}, {EPOCHS} epochs, last epoch. The others "
        "train the paper's MLP head with cross-entropy. Means ± 95 % intervals by Student's t over "
        f"seeds from {FIRST_SEED}. torch {torch.__version__}.",
        "",
        "- accuracy: on the test set; difference: ours with annotators less the method, paired by "
        "seed, bold if significant",
        "- right consensus: share of the training samples whose suggested label is right",
        "- matrix error: mean absolute error of the annotators' matrices, in points",
        "- CPU: seconds of aggregation, cross-validation and training",
    ]
    data: dict[str, list[dict[str, Any]]] = {line["data"]: [] for line in lines}
    for line in sorted(lines, key=lambda line: line["seed"]):
        data[line["data"]].append(line)
    for name, runs in data.items():
        single, count = (show_mean([run[key] for run in runs], 1) for key in ("right", "labels"))
        parts += [
            "",
            f"## {name}: {len(runs)} seeds, {count} labels per sample, {single} % of them right",
            "",
            "| method | accuracy % | difference | right consensus % | matrix error | CPU s |",
            "|---" * 6 + "|",
            *_rows([run["found"] for run in runs]),
        ]
    text = "\n".join(parts)
    save_text(results / "annotators.md", text + "\n")
    return text


def _rows(runs: list[dict[str, dict[str, float]]]) -> Iterator[str]:
    for name in METHODS:
        columns = [
            show_mean([run[name][key] for run in runs], digits) if key in runs[0][name] else "-"
            for key, digits in (("accuracy", 1), ("consensus", 1), ("matrix_error", 2), ("cpu", 0))
        ]
        ahead = [run[OURS]["accuracy"] - run[name]["accuracy"] for run in runs]
        mean, interval = mean_and_interval(ahead)
        shown = "-" if name == OURS else show_mean(ahead, 1, "+")
        shown = f"**{shown}**" if abs(mean) > interval else shown
        yield f"| {name} | {columns[0]} | {shown} | {' | '.join(columns[1:])} |"


def main(
    data: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(DATA)}.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    if unknown := [name for name in data or [] if name not in DATA]:
        raise typer.BadParameter(f"must be of {', '.join(DATA)}; got {', '.join(unknown)}")
    path = results / "annotators.jsonl"
    drawn = range(FIRST_SEED, FIRST_SEED + seeds)
    if not render_only:
        runs = [Run(name, seed) for seed in drawn for name in data or DATA]
        run_all(do_run, runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
