"""Do prediction sets cover every class? One threshold and one for each class, on imbalanced data.

    pip install torchcp                    # optional: its sets are compared, too
    python benchmarks/class_coverage.py    # 6 short trainings

Training and held-out data have 100 samples of the most frequent class for each one of the rarest.
Every run is one line of `results/class_coverage.jsonl`; finished runs are skipped. Renders
`results/class_coverage.md`, which `--render-only` does alone.
"""

import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import typer
from measures import show_mean
from methods import METHODS, Balanced
from noisy_data import CORRUPTIONS
from resumable import read_lines, run_all
from robustness_runs import Run, predict, train
from tasks import DATA, FIRST_SEED
from torch import Tensor

from examples.result_files import save_text
from reliability_balance.calibration import (
    ClassPredictionSets,
    PredictionSets,
    TemperatureScaling,
)

RESULTS = Path(__file__).parent / "results"
CORRUPTION, COMPARED = "imbalance-100", ("cross-entropy", "ours, robust")
COVERAGE, DRAWS, NUM_CLASSES, TRAINED = 0.9, 20, 10, 10_000
# Held-out samples of each class: 100 to 1.
COUNTS = [round(2000 * 100 ** (-each / (NUM_CLASSES - 1))) for each in range(NUM_CLASSES)]
PENALTY, FREE_RANKS = 0.05, 2
SCORES: dict[str, dict[str, Any]] = {
    "lac": {},
    "aps": {"score": "aps"},
    "raps": {"score": "raps", "penalty": PENALTY, "free_ranks": FREE_RANKS},
}
THRESHOLDS = {"all": "one for all", "class": "one for each class"}

Line = dict[str, Any]
Predict = Callable[[Tensor], Tensor]

PREAMBLE = """# Coverage of every class

By `python benchmarks/class_coverage.py`, from the runs in `class_coverage.jsonl`. Means over
{seeds} seeds, ± 95 % intervals by Student's t. torch {torch}.

Fashion-MNIST with 100 samples of the first class for each one of the last: about 2,500 images to
train on for 30 epochs, {held_out:,} held-out images ({most:,} to {least} of a class) to fit a
temperature on, and as many others to fit the sets on. Coverage is counted by class on the official
10,000 test images; the target is 90 %. Each seed averages {draws} draws of the held-out images that
the sets are fitted on. RAPS has a penalty of {penalty} for each rank beyond {free_ranks}.

"As held out" weights the classes by their frequencies in the held-out data, "even" equally.
TorchCP gets the same held-out data; for "aps" and "raps" it draws other random numbers."""


def do_run(run: Run) -> Line:
    """Train, calibrate, and fit sets on several draws of held-out data."""
    torch.set_num_threads(1)
    whole = DATA["fashion-60k"](run.seed)  # begins with the samples of fashion-10k
    task = whole.rows(slice(TRAINED))
    task = CORRUPTIONS[run.corruption](task, run.seed)
    torch.manual_seed(run.seed)
    method = METHODS[run.method](task)
    train(method, task, run.epochs)
    pool, labels = predict(method, whole.inputs[TRAINED:]), whole.labels[TRAINED:]
    generator = torch.Generator().manual_seed(run.seed)
    chosen, rest = _draw(torch.arange(len(labels)), labels, generator)
    counts = labels[chosen].bincount() if isinstance(method, Balanced) else None
    scaling = TemperatureScaling().fit(pool[chosen], labels[chosen], class_prior=counts)
    pool, test = scaling(pool), scaling(predict(method, task.test_inputs))
    found = _judge(pool, labels, rest, test, task.test_labels, generator)
    return {**run._asdict(), **found}


def _draw(rows: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw COUNTS samples of each class from the rows; return them, and the other rows."""
    rows = rows[torch.randperm(len(rows), generator=generator)]
    parts = [rows[labels[rows] == each].tensor_split([n]) for each, n in enumerate(COUNTS)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))  # type: ignore[return-value]


def _judge(
    pool: Tensor,
    labels: Tensor,
    rows: Tensor,
    test: Tensor,
    test_labels: Tensor,
    generator: torch.Generator,
) -> dict[str, dict[str, list[float]]]:
    """Coverage in percent and set size of each class, by score and thresholds."""
    totals: dict[str, dict[str, Tensor]] = defaultdict(
        lambda: defaultdict(lambda: torch.zeros(NUM_CLASSES, dtype=torch.float64))
    )
    of_class = torch.nn.functional.one_hot(test_labels, NUM_CLASSES).double()
    of_class /= of_class.sum(0)
    for _ in range(DRAWS):
        held, _ = _draw(rows, labels, generator)
        fits = {"": _ours}
        if importlib.util.find_spec("torchcp") is not None:
            fits["torchcp_"] = _torchcp
        for prefix, fit in fits.items():
            for score in SCORES:
                for kind in THRESHOLDS:
                    sets = fit(score, kind, pool[held], labels[held], generator)(test)
                    right = sets.gather(1, test_labels.unsqueeze(1)).squeeze(1).double()
                    name = f"{score} {kind}"
                    totals[f"{prefix}coverage"][name] += 100 * (right @ of_class) / DRAWS
                    totals[f"{prefix}size"][name] += sets.sum(1).double() @ of_class / DRAWS
    return {
        measure: {name: [round(each, 4) for each in value.tolist()] for name, value in by.items()}
        for measure, by in totals.items()
    }


def _ours(
    score: str, kind: str, log_probs: Tensor, labels: Tensor, generator: torch.Generator
) -> Predict:
    settings = SCORES[score]
    sets = (
        PredictionSets(COVERAGE, **settings)
        if kind == "all"
        else ClassPredictionSets(NUM_CLASSES, COVERAGE, **settings)
    ).fit(log_probs, labels, generator=generator)
    return lambda test: sets(test, generator=generator)


def _torchcp(
    score: str, kind: str, log_probs: Tensor, labels: Tensor, generator: torch.Generator
) -> Predict:
    """TorchCP's sets; it draws from torch's default generator."""
    from torchcp.classification import predictor
    from torchcp.classification import score as scores

    settings = {"penalty": PENALTY, "kreg": FREE_RANKS} if score == "raps" else {}
    function = getattr(scores, score.upper())(**settings)
    kinds = {"all": predictor.SplitPredictor, "class": predictor.ClassConditionalPredictor}
    sets = kinds[kind](function)
    sets.calculate_threshold(log_probs, labels, alpha=1 - COVERAGE)
    return lambda test: sets.predict_with_logits(test).bool()


def write_report(lines: list[Line], results: Path) -> str:
    """Write `class_coverage.md` and return it."""
    grouped: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        grouped[line["method"]].append(line)
    parts = [
        PREAMBLE.format(
            seeds=len({line["seed"] for line in lines}),
            torch=torch.__version__,
            held_out=sum(COUNTS),
            most=COUNTS[0],
            least=COUNTS[-1],
            draws=DRAWS,
            penalty=PENALTY,
            free_ranks=FREE_RANKS,
        )
    ]
    for method, runs in grouped.items():
        parts += [f"\n## {method}\n", *_by_class(runs), "", *_by_score(runs)]
    text = "\n".join(parts) + "\n"
    save_text(results / "class_coverage.md", text)
    return text


def _by_class(runs: list[Line]) -> list[str]:
    rows = [
        "| class | held-out samples | coverage %, lac, one threshold "
        "| coverage %, lac, one for each class | aps, one for each class "
        "| raps, one for each class |",
        "|---|---|---|---|---|---|",
    ]
    names = ["lac all", "lac class", "aps class", "raps class"]
    for each, count in enumerate(COUNTS):
        cells = [show_mean([run["coverage"][name][each] for run in runs], 1) for name in names]
        rows.append(f"| {each} | {count} | {' | '.join(cells)} |")
    return rows


def _by_score(runs: list[Line]) -> list[str]:
    rows = [
        "| score | thresholds | coverage %, as held out | coverage %, lowest class "
        "| set size, as held out | set size, even | TorchCP's set size, as held out "
        "| TorchCP's set size, even |",
        "|---|---|---|---|---|---|---|---|",
    ]
    frequent = [count / sum(COUNTS) for count in COUNTS]
    even = [1 / NUM_CLASSES] * NUM_CLASSES

    def mean(measure: str, name: str, weights: list[float], digits: int) -> str:
        values = [
            sum(w * value for w, value in zip(weights, run[measure][name], strict=True))
            for run in runs
            if measure in run
        ]
        return show_mean(values, digits) if values else ""

    for score in SCORES:
        for kind, shown in THRESHOLDS.items():
            name = f"{score} {kind}"
            lowest = min(
                (sum(run["coverage"][name][each] for run in runs) / len(runs), each)
                for each in range(NUM_CLASSES)
            )[1]
            cells = [
                mean("coverage", name, frequent, 1),
                show_mean([run["coverage"][name][lowest] for run in runs], 1),
                *(
                    mean(f"{prefix}size", name, weights, 3)
                    for prefix in ("", "torchcp_")
                    for weights in (frequent, even)
                ),
            ]
            rows.append(f"| {score} | {shown} | {' | '.join(cells)} |")
    return rows


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all that is there."""
    path = results / "class_coverage.jsonl"
    runs = [
        Run("fashion-10k", CORRUPTION, method, FIRST_SEED + seed, epochs)
        for seed in range(seeds)
        for method in COMPARED
    ]
    if not render_only:
        run_all(do_run, runs, path, workers)
    print(write_report(read_lines(path, epochs=epochs), results))


if __name__ == "__main__":
    typer.run(main)
