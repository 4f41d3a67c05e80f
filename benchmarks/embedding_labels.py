"""Find wrong labels of stored embeddings: ours against nearest neighbours, over many shapes.

    python benchmarks/embedding_labels.py                     # all; can be stopped and resumed
    python benchmarks/embedding_labels.py --shape elongated   # one shape of embeddings
    python benchmarks/embedding_labels.py --cost              # only CPU seconds of 1,000 classes

Every run is one line of `results/embedding_labels.jsonl`; finished runs are skipped. Nearest
neighbours are scikit-learn's in 5-fold cross-validation, with 10 and 20 neighbours, on raw and
standardised embeddings. Ours has no hyperparameters. Renders `results/embedding_labels.md`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import typer
from embedding_shapes import SHAPES, Embedded, separated
from measures import mean_and_interval, show_mean
from resumable import read_lines, run_all
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from examples.result_files import save_text
from reliability_balance.data import pair_noise, symmetric_noise
from reliability_balance.labels import inspect_embeddings, rank_labels

RESULTS = Path(__file__).parent / "results"
NOISES = {
    **{f"symmetric {rate}": (symmetric_noise, rate / 100) for rate in (5, 10, 20, 40)},
    **{f"pair {rate}": (pair_noise, rate / 100) for rate in (5, 10, 20, 40)},
}
COST = "1,000 classes of 20, D 384"
FIRST_SEED = 100  # the settings were chosen on seeds 0 to 2
ALLOWED = 0.01  # AUROC


class Run(NamedTuple):
    """Key of a run: a shape of embedding_shapes.py or the cost, a noise, a seed."""

    shape: str
    noise: str
    seed: int


def neighbours_doubt(embeddings: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """Return 1 less the share of a sample's neighbours with its label, 5-fold."""
    points, given = embeddings.numpy(), labels.numpy()
    doubt = np.ones(len(given))
    for kept, held_out in KFold(5, shuffle=True, random_state=seed).split(points):
        finder = KNeighborsClassifier(min(count, len(kept))).fit(points[kept], given[kept])
        probs = finder.predict_proba(points[held_out])
        column = np.searchsorted(finder.classes_, given[held_out]).clip(max=probs.shape[1] - 1)
        known = finder.classes_[column] == given[held_out]
        doubt[held_out] -= np.where(known, probs[np.arange(len(probs)), column], 0.0)
    return torch.from_numpy(doubt)


def our_doubt(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the library's doubts, in the order of the samples."""
    ranking = rank_labels(inspect_embeddings(embeddings, labels, num_classes), labels)
    return ranking.doubt[ranking.sample.argsort()]


def finders(
    data: Embedded, labels: Tensor, seed: int
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield our finder and the nearest-neighbour baselines."""
    spread = data.embeddings.std(0).clamp_min(1e-6)
    standard = (data.embeddings - data.embeddings.mean(0)) / spread
    yield "ours", partial(our_doubt, data.embeddings, labels, data.num_classes)
    for name, points in (("", data.embeddings), (" standardised", standard)):
        for count in (10, 20):
            find = partial(neighbours_doubt, points, labels, count, seed)
            yield f"{count} neighbours{name}", find


def do_run(run: Run) -> dict[str, Any]:
    """Return AUROC of the wrong labels and CPU seconds of each finder."""
    torch.set_num_threads(1)
    data = separated(1000, 20, 384)(run.seed) if run.shape == COST else SHAPES[run.shape](run.seed)
    make_noise, rate = NOISES[run.noise]
    labels = make_noise(data.classes, rate, data.num_classes, seed=run.seed)
    wrong = (labels != data.classes).numpy()
    found = {}
    for name, find in finders(data, labels, run.seed):
        if run.shape == COST and name not in ("ours", "10 neighbours"):
            continue
        start = time.process_time()
        doubt = find()
        seconds = time.process_time() - start
        found[name] = {"auroc": float(roc_auc_score(wrong, doubt)), "cpu": round(seconds, 3)}
    return {**run._asdict(), "found": found}


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `embedding_labels.md` and return it."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        runs.setdefault((line["shape"], line["noise"]), []).append(line["found"])
    rows, below = [], []
    for (shape, noise), each in sorted(runs.items(), key=lambda item: item[0]):
        if shape == COST:
            continue
        areas = {name: [found[name]["auroc"] for found in each] for name in each[0]}
        best = max((name for name in areas if name != "ours"), key=lambda name: sum(areas[name]))
        differences = [ours - its for ours, its in zip(areas["ours"], areas[best], strict=True)]
        if mean_and_interval(differences)[0] < -ALLOWED:
            below.append(f"{shape}, {noise}")
        rows.append(
            f"| {shape} | {noise} | {show_mean(areas['ours'], 3)} | {show_mean(areas[best], 3)} "
            f"| {best} | {show_mean(differences, 3, '+')} |"
        )
    seeds = max(map(len, runs.values()), default=0)
    text = "\n".join(
        [
            "# Wrong labels of stored embeddings",
            "",
            f"By `python benchmarks/embedding_labels.py`, from {seeds} seeds of "
            "`embedding_labels.jsonl`. AUROC of the wrong labels, means ± 95 % intervals by "
            "Student's t. Ours is compared with the best of four nearest-neighbour baselines on "
            "each row, chosen after the fact: 10 or 20 neighbours, raw or standardised embeddings. "
            f"torch {torch.__version__}.",
            "",
            f"Ours is more than {ALLOWED} below on {len(below)} of {len(rows)} rows"
            + (f": {'; '.join(below)}." if below else "."),
            "CPU seconds of ours include the ranking.",
            "",
            *_cost(runs),
            "| embeddings | noise % | ours | best neighbours | which | difference |",
            "|---" * 6 + "|",
            *rows,
        ]
    )
    save_text(results / "embedding_labels.md", text + "\n")
    return text


def _cost(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> Iterator[str]:
    for (shape, _), each in runs.items():
        if shape == COST:
            for name in each[0]:
                seconds = show_mean([found[name]["cpu"] for found in each], 1)
                area = show_mean([found[name]["auroc"] for found in each], 3)
                yield f"- {COST}, {name}: {seconds} CPU seconds, AUROC {area}"
            yield ""


def main(
    shape: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    cost: Annotated[bool, typer.Option(help="Only the CPU seconds of a large set.")] = False,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    if unknown := [name for name in shape or [] if name not in SHAPES]:
        raise typer.BadParameter(f"must be of {', '.join(SHAPES)}; got {', '.join(unknown)}")
    path = results / "embedding_labels.jsonl"
    drawn = range(FIRST_SEED, FIRST_SEED + seeds)
    runs = [Run(COST, "symmetric 10", seed) for seed in drawn]
    if not cost:
        runs += [Run(s, noise, seed) for seed in drawn for s in shape or SHAPES for noise in NOISES]
    if not render_only:
        run_all(do_run, runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
