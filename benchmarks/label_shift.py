"""Can class frequencies be estimated from unlabelled data, and what does that gain?

    python benchmarks/label_shift.py                                       # Fashion-MNIST
    python benchmarks/label_shift.py --fer-plus FOLDER --cache FOLDER      # and FER2013

The folders are those of `human_labels.py`. Every run is one line of `results/label_shift.jsonl`;
finished runs are skipped. Renders `results/label_shift.md`, which `--render-only` does alone.
"""

import os
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import human_methods
import methods
import torch
import typer
from human_tasks import Folders, make_task
from measures import show_mean
from noisy_data import imbalanced
from resumable import read_lines, run_all
from robustness_runs import predict, train
from tasks import DATA, FIRST_SEED
from torch import Tensor

from examples.result_files import save_text
from reliability_balance.calibration import (
    TemperatureScaling,
    VectorScaling,
    estimate_class_prior,
)

RESULTS = Path(__file__).parent / "results"
RATIO, HELD_OUT_SHARE, TRAINED = 17, 0.2, 10_000
FASHION, FACES = "fashion-10k", "fer2013"
TITLES = {
    FASHION: "Fashion-MNIST, frequencies reversed: label shift alone",
    FACES: "FER2013, frequencies of FER+: other labels",
}
# Names of our methods in methods.py and human_methods.py.
COMPARED = {"cross-entropy": ("cross-entropy",) * 2, "ours": ("ours, robust", "ours")}
WAYS = {
    "none": "EM, not calibrated",
    "temperature": "EM, temperature scaling",
    "vector": "EM, vector scaling",
    "bbse": "BBSE, temperature scaling",
}

Line = dict[str, Any]

PREAMBLE = """# Class frequencies from unlabelled data

By `python benchmarks/label_shift.py`, from the runs in `label_shift.jsonl`. Means over seeds,
± 95 % intervals by Student's t. torch {torch}.

`estimate_class_prior` (EM) sees the predictions on the test set, without labels. The error is the
total variation between estimated and true class frequencies. Accuracy is that of the predictions
adjusted to the frequencies. Calibration is fitted on held-out data with the labels and the class
frequencies of the training data. BBSE solves for the frequencies by the mean predictions of each
held-out class.

Fashion-MNIST: trained with 17 samples of the first class for each one of the last, tested with
these frequencies reversed. FER2013: trained on four fifths of its labels (embeddings, 20 epochs),
tested on FER+'s. Here the labels differ, not only the frequencies: FER2013 labels 17 % of the faces
neutral, FER+ 36 % of the test faces."""


class Run(NamedTuple):
    """What names a run."""

    data: str
    method: str
    seed: int


class Predictions(NamedTuple):
    """Log-probabilities for even classes of held-out and test data, and the labels of both."""

    held_out: Tensor
    held_labels: Tensor
    test: Tensor
    test_labels: Tensor


def do_run(run: Run, folders: Folders) -> Line:
    """Train, calibrate, estimate."""
    torch.set_num_threads(1)
    made = _fashion(run) if run.data == FASHION else _faces(run, folders)
    return {**run._asdict(), **judge(made)}


def judge(predictions: Predictions) -> dict[str, float]:
    """Errors of the frequencies and accuracies, in percent."""
    held_out, held_labels, test, test_labels = predictions
    num_classes = test.shape[1]
    source = held_labels.bincount(minlength=num_classes).clamp_min(1)
    true = test_labels.bincount(minlength=num_classes).clamp_min(1) / len(test_labels)
    found: dict[str, float] = {}
    for way, scaling in {
        "none": None,
        "temperature": TemperatureScaling(),
        "vector": VectorScaling(num_classes),
    }.items():
        held, calibrated = held_out, test
        if scaling is not None:
            scaling.fit(held_out, held_labels, class_prior=source)
            held, calibrated = scaling(held_out), scaling(test)
        estimates = {way: estimate_class_prior(calibrated)}
        if way == "temperature":
            estimates["bbse"] = _bbse(held, held_labels, calibrated)
        even = torch.ones(num_classes)
        known = {f"even {way}": even, f"source {way}": source, f"true {way}": true}
        for name, prior in {**estimates, **known}.items():
            adjusted = calibrated + (prior / prior.sum()).log()
            right = adjusted.argmax(1) == test_labels
            found[f"accuracy {name}"] = 100 * float(right.float().mean())
        for name, prior in estimates.items():
            found[f"error {name}"] = 50 * float((prior - true).abs().sum())
    return found


def _bbse(held_out: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Black box shift estimation (Lipton et al., ICML 2018), with probabilities."""
    means = [held_out[labels == each].exp().mean(0) for each in range(test.shape[1])]
    solved = torch.linalg.lstsq(torch.stack(means, 1), test.exp().mean(0, keepdim=True).T)
    prior: Tensor = solved.solution.squeeze(1).clamp_min(0.5 / len(test))
    prior /= prior.sum()
    return prior


def _fashion(run: Run) -> Predictions:
    whole = DATA["fashion-60k"](run.seed)  # begins with the samples of fashion-10k
    first, rest = (
        imbalanced(RATIO)(
            whole.rows(rows),
            run.seed,
        )
        for rows in (slice(TRAINED), slice(TRAINED, 2 * TRAINED))
    )
    torch.manual_seed(run.seed)
    method = methods.METHODS[COMPARED[run.method][0]](first)
    train(method, first, 30)
    test_labels = whole.test_labels
    share = RATIO ** (-(9 - torch.arange(10)) / 9)
    generator = torch.Generator().manual_seed(run.seed)
    kept = torch.rand(len(test_labels), generator=generator) < share[test_labels]
    even = isinstance(method, methods.Balanced)
    counts = None if even else first.labels.bincount(minlength=10)
    return Predictions(
        _for_even(predict(method, rest.inputs), counts),
        rest.labels,
        _for_even(predict(method, whole.test_inputs[kept]), counts),
        test_labels[kept],
    )


def _faces(run: Run, folders: Folders) -> Predictions:
    task = make_task(FACES, "embeddings", 0, run.seed, folders)
    count = round((1 - HELD_OUT_SHARE) * len(task.data.labels))
    inputs, labels = task.data.inputs, task.data.labels
    part = task.rows(slice(count))
    torch.manual_seed(run.seed)
    made = human_methods.METHODS[COMPARED[run.method][1]]
    method = made(part, 20)
    train(method, part.data, method.epochs)
    counts = None if method.for_even_classes else labels[:count].bincount(minlength=7)
    return Predictions(
        _for_even(predict(method, inputs[count:]), counts),
        labels[count:],
        _for_even(predict(method, task.data.test_inputs), counts),
        task.data.test_labels,
    )


def _for_even(log_probs: Tensor, counts: Tensor | None) -> Tensor:
    """Predictions for evenly frequent classes, of ones for these counts."""
    wide = log_probs.float()
    return wide if counts is None else (wide - counts.log()).log_softmax(1)


def write_report(lines: list[Line], results: Path) -> str:
    """Write `label_shift.md` and return it."""
    grouped: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        grouped[line["data"]][line["method"]].append(line)
    parts = [PREAMBLE.format(torch=torch.__version__)]
    for data, by_method in grouped.items():
        parts += [
            f"\n## {TITLES[data]}\n",
            "| method | estimate | seeds | error, points | accuracy %, even frequencies "
            "| accuracy %, those of training | accuracy %, estimated | accuracy %, true |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for method, runs in by_method.items():
            for way, shown in WAYS.items():
                of_way = "temperature" if way == "bbse" else way
                names = ("even " + of_way, "source " + of_way, way, "true " + of_way)
                cells = [
                    show_mean([run[f"error {way}"] for run in runs], 1),
                    *(show_mean([run[f"accuracy {name}"] for run in runs], 1) for name in names),
                ]
                parts.append(f"| {method} | {shown} | {len(runs)} | {' | '.join(cells)} |")
    text = "\n".join(parts) + "\n"
    save_text(results / "label_shift.md", text)
    return text


def main(
    fer_plus: Annotated[Path | None, typer.Option(help="Folder of FER+.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the embeddings.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all that is there."""
    if (fer_plus is None) is not (cache is None):
        raise typer.BadParameter("--fer-plus and --cache must be given together; got one")
    path = results / "label_shift.jsonl"
    runs = [
        Run(data, method, FIRST_SEED + seed)
        for data in [FASHION] + [FACES] * (fer_plus is not None)
        for seed in range(seeds)
        for method in COMPARED
    ]
    if not render_only:
        run_all(partial(do_run, folders=Folders(fer_plus, cache=cache)), runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
