"""Does the interval of the noise rate cover the truth, and does it help to calibrate?

    python benchmarks/noise_rate.py    # 60 short trainings

Five data sets, three kinds of noise, four rates, short and full trainings. Every run is one line of
`results/noise_rate.jsonl`; finished runs are skipped. Renders `results/noise_rate.md`, which
`--render-only` does alone.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "examples/arbex"))

import torch
import typer
from cleanlab.count import estimate_joint
from doubtful_labels_runs import out_of_sample
from measures import show_mean
from methods import Robust
from noisy_data import Task, instance, pair, symmetric
from prediction_report import score
from result_files import save_text
from resumable import read_lines, run_all
from robustness_runs import train
from tasks import digits, faces, fashion, small_digits, texts
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance import calibrate
from reliability_balance.labels import estimate_noise, noise_from_beliefs, noise_rate_bounds

RESULTS = Path(__file__).parent / "results"
SIZE, SHORT, FULL = 2000, 8, 20
DATA: dict[str, Callable[[int], Task]] = {
    "scikit-learn's digits": small_digits,
    "digits": partial(digits, SIZE),
    "rendered faces": partial(faces, SIZE),
    "Fashion-MNIST": partial(fashion, SIZE),
    "texts": partial(texts, SIZE),
}
KINDS = {"symmetric": symmetric, "pair": pair, "instance": instance}
LOW, RATES = (0.1, 0.2), (0.3, 0.4)
MOST_TESTED, RESAMPLES = 2000, 50
ESTIMATES = {
    "held_back": "`noise_rate()`: held-back training labels",
    "held_out": "`noise_rate_bounds`: held-out labels, trained model",
    "bootstrap": "bootstrap of the beliefs (`noise_rate()` before)",
    "cleanlab": "cleanlab, 5-fold cross-validation",
}
ECES = {
    "none": "not calibrated",
    "clean": "clean held-out labels",
    "noisy": "noisy held-out labels",
}

Line = dict[str, Any]

PREAMBLE = """# Noise rates

By `python benchmarks/noise_rate.py`, from the runs in `noise_rate.jsonl`: {runs} runs, one for each
of five data sets, three kinds of noise and four rates (0, 0.1 or 0.2, 0.3, 0.4), alternately over
{short} and {full} epochs; means ± 95 % intervals by Student's t. torch {torch}. Seeds 0 to 4; the
estimate was chosen on seeds 100 to 104.

{size:,} training samples, 1,400 of scikit-learn's digits, a tenth of them held back for the first
half of the training (ten epochs at most). An interval of 95 % covers the truth if the share of
wrong training labels lies within it. The estimate on held-out labels uses half of the test set
(200 to 1,000 samples), with noise of the same kind and rate; the share of wrong labels there is its
truth. "Error" is the mean absolute error of the value. cleanlab gives no interval.

Rendered faces have 1.7 % wrong labels before noise is added. "Instance" puts the wrong labels where
a linear classifier confuses the classes. A network may learn such noise as if it were right."""


class Run(NamedTuple):
    """Key of a run."""

    data: str
    kind: str
    rate: float
    epochs: int
    seed: int


def all_runs() -> list[Run]:
    """Return the 60 runs; lengths and low rates alternate."""
    return [
        Run(data, kind, rate, (FULL, SHORT)[(k + d + r) % 2], d)
        for d, data in enumerate(DATA)
        for k, kind in enumerate(KINDS)
        for r, rate in enumerate((0.0, LOW[(k + d) % 2], *RATES))
    ]


def do_run(run: Run) -> Line:
    """Train, estimate the rate in all ways, calibrate, and evaluate."""
    torch.set_num_threads(1)
    task = DATA[run.data](run.seed)
    held, test = _halves(task, run.seed)
    corrupt = KINDS[run.kind](run.rate)
    if run.rate:
        task, held = corrupt(task, run.seed), corrupt(held, run.seed + 1)
    torch.manual_seed(run.seed)
    method = Robust(task)
    train(method, task, run.epochs)
    model = nn.Sequential(method.encoder, method.balancer).eval()
    with torch.inference_mode():
        confidence, classes = model(held.inputs).corrected.max(1)
    targets = method.targets
    found = {
        "held_back": _numbers(estimate_noise(targets, task.labels, num_resamples=2).rate),
        "held_out": _numbers(noise_rate_bounds(confidence, (classes == held.labels).float())),
        "bootstrap": _numbers(
            noise_from_beliefs(
                targets.beliefs(torch.arange(len(task.labels))),
                task.labels,
                targets.noise_matrix,
                num_resamples=RESAMPLES,
            ).rate
        ),
        "cleanlab": [_cleanlab(task, out_of_sample(task, run.epochs, run.seed))],
    }
    clean = [(held.inputs, held.truth.argmax(1))]
    calibrated = {
        "clean": calibrate(model, clean),
        "noisy": calibrate(model, [(held.inputs, held.labels)], noise=method.robust),
    }
    with torch.inference_mode():
        output = model(test.inputs)
        log_probs = {name: each(test.inputs).log_probs for name, each in calibrated.items()}
    log_probs["none"] = output.log_probs
    return {
        **run._asdict(),
        "true": {"held_back": _wrong(task), "held_out": _wrong(held)},
        "rates": found,
        "ece": {
            name: round(score(each.exp(), each.clamp_min(-30), test.labels).ece, 3)
            for name, each in log_probs.items()
        },
    }


def _halves(task: Task, seed: int) -> tuple[Task, Task]:
    """Return two halves of the test set, of 1,000 samples at most, as tasks."""
    order = torch.randperm(len(task.test_labels), generator=torch.Generator().manual_seed(seed))[
        :MOST_TESTED
    ]
    inputs, labels = task.test_inputs[order], task.test_labels[order]
    truth = F.one_hot(labels, task.num_classes).float()
    whole = task._replace(inputs=inputs, labels=labels, truth=truth)
    return whole.rows(slice(len(order) // 2)), whole.rows(slice(len(order) // 2, None))


def _wrong(task: Task) -> float:
    return round(float((task.labels != task.truth.argmax(1)).float().mean()), 4)


def _cleanlab(task: Task, probs: Tensor) -> float:
    joint = estimate_joint(task.labels.numpy(), probs.double().numpy())
    return round(float(1 - joint.trace()), 4)


def _numbers(rate: tuple[Tensor, Tensor, Tensor]) -> list[float]:
    return [round(float(each), 4) for each in rate]


def write_report(lines: list[Line], results: Path) -> str:
    """Write `noise_rate.md` and return it."""
    parts = [
        PREAMBLE.format(runs=len(lines), short=SHORT, full=FULL, size=SIZE, torch=torch.__version__)
    ]
    groups: dict[str, Callable[[Line], bool]] = {
        "all runs": lambda line: True,
        "clean labels": lambda line: line["rate"] == 0,
        **{kind: lambda line, kind=kind: line["kind"] == kind and line["rate"] for kind in KINDS},
        f"{SHORT} epochs": lambda line: line["epochs"] == SHORT,
        f"{FULL} epochs": lambda line: line["epochs"] == FULL,
    }
    chosen = {name: [line for line in lines if group(line)] for name, group in groups.items()}
    for estimate, shown in ESTIMATES.items():
        parts += [f"\n## {shown}\n", *_covered(chosen, estimate)]
    parts += ["\n## ECE after calibration, %\n", *_calibrated(chosen)]
    text = "\n".join(parts) + "\n"
    save_text(results / "noise_rate.md", text)
    return text


def _covered(groups: dict[str, list[Line]], estimate: str) -> list[str]:
    rows = [
        "| runs | number | intervals that cover the truth | mean width, points | error, points |",
        "|---|---|---|---|---|",
    ]
    for name, lines in groups.items():
        where = "held_out" if estimate == "held_out" else "held_back"
        found = [(line["rates"][estimate], line["true"][where]) for line in lines]
        intervals = [(rate, true) for rate, true in found if len(rate) > 1]
        covered = sum(rate[1] <= true <= rate[2] for rate, true in intervals)
        widths = [100 * (rate[2] - rate[1]) for rate, _ in intervals]
        errors = [100 * abs(rate[0] - true) for rate, true in found]
        cells = [f"{covered} of {len(lines)}", show_mean(widths, 1)] if intervals else ["", ""]
        rows.append(f"| {name} | {len(lines)} | {' | '.join(cells)} | {show_mean(errors, 1)} |")
    return rows


def _calibrated(groups: dict[str, list[Line]]) -> list[str]:
    rows = [
        f"| runs | {' | '.join(ECES.values())} | noisy less clean |",
        "|---|---|---|---|---|",
    ]
    for name, lines in groups.items():
        cells = [show_mean([line["ece"][each] for line in lines], 2) for each in ECES]
        less = [line["ece"]["noisy"] - line["ece"]["clean"] for line in lines]
        rows.append(f"| {name} | {' | '.join(cells)} | {show_mean(less, 2)} |")
    return rows


def main(
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all that is there."""
    path = results / "noise_rate.jsonl"
    if not render_only:
        run_all(do_run, all_runs(), path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
