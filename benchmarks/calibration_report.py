"""Render the runs of calibration.py to Markdown."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from measures import mean_and_interval

from examples.result_files import save_text

BASELINE, OURS = "cross-entropy", "ours, robust"
# Suffix of the measure after `ece_` and `nll_`: the calibration and its held-out labels.
WAYS = {
    "none": "not calibrated",
    "clean": "temperature, clean labels",
    "branches_clean": "temperature of each branch, clean labels",
    "vector_clean": "vector scaling, clean labels",
    "top_clean": "top-label scaling, clean labels",
    "both_clean": "temperature of each branch, then top-label scaling, clean labels",
    "noisy": "temperature, noisy labels",
    "cleaned": "temperature, noisy labels, learned noise matrix",
    "top_cleaned": "top-label scaling, noisy labels, learned noise matrix",
}
# Pairs to compare: calibration of ours and of cross-entropy, on the same held-out samples.
CONTESTS = (
    ("clean", "clean"),
    ("branches_clean", "clean"),
    ("top_clean", "clean"),
    ("both_clean", "clean"),
    ("both_clean", "top_clean"),
    ("noisy", "noisy"),
    ("cleaned", "noisy"),
    ("top_cleaned", "noisy"),
)

Line = dict[str, Any]

PREAMBLE = """# Calibration

By `python benchmarks/calibration.py`, from the runs in `calibration.jsonl`. Means over seeds,
± 95 % intervals by Student's t; differences are paired by seed. torch {torch}.

10,000 images of Fashion-MNIST: 8,000 for training, over 30 epochs, and 2,000 of the training set
held out to fit the calibration; ECE (15 bins) and NLL on the official 10,000 test images. Held-out
labels are clean, or have the noise of the training labels, which biases the temperature. With
"learned noise matrix" ours saw only noisy labels and corrected for the noise with the matrix from
`RefurbishedTargets`; cross-entropy has no such estimate.

Prediction sets are fitted after the temperature (clean labels) on 5,000 random test images and
evaluated on the other 5,000, for a coverage of 90 %."""


def write_report(lines: list[Line], results: Path) -> str:
    """Write `calibration.md` and return it."""
    grouped: dict[str, dict[str, dict[int, Line]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        grouped[line["corruption"]][line["method"]][line["seed"]] = line
    parts = [PREAMBLE.format(torch=torch.__version__)]
    for corruption, methods in grouped.items():
        parts += [f"\n## {corruption}\n", *_table(methods), "", *_contests(methods)]
    text = "\n".join(parts) + "\n"
    save_text(results / "calibration.md", text)
    return text


def _table(methods: dict[str, dict[int, Line]]) -> list[str]:
    """Return the rows for ECE and NLL after each calibration, and for the prediction sets."""
    rows = [
        "| method | calibration | seeds | accuracy % | ECE % | NLL |",
        "|---|---|---|---|---|---|",
    ]
    sets = ["| method | coverage % | farthest seed % | mean set size |", "|---|---|---|---|"]
    for method, seeds in methods.items():
        runs = list(seeds.values())
        for way, label in WAYS.items():
            if f"ece_{way}" in runs[0]:
                cells = [_mean(runs, f"accuracy_{way}", 2), _mean(runs, f"ece_{way}", 2)]
                cells.append(_mean(runs, f"nll_{way}", 3))
                rows.append(f"| {method} | {label} | {len(runs)} | {' | '.join(cells)} |")
        farthest = max((run["coverage"] for run in runs), key=lambda value: abs(value - 90))
        sets.append(
            f"| {method} | {_mean(runs, 'coverage', 2)} | {farthest:.2f} "
            f"| {_mean(runs, 'set_size', 3)} |"
        )
    return [*rows, "", *sets]


def _contests(methods: dict[str, dict[int, Line]]) -> list[str]:
    """Return the rows for ECE of ours less that of cross-entropy, on the same held-out samples."""
    rows = [
        "| ours | cross-entropy | ECE difference, points |",
        "|---|---|---|",
    ]
    seeds = sorted(methods[OURS].keys() & methods[BASELINE].keys())
    for ours, baseline in CONTESTS:
        differences = [
            methods[OURS][seed][f"ece_{ours}"] - methods[BASELINE][seed][f"ece_{baseline}"]
            for seed in seeds
        ]
        if differences:
            mean, half = mean_and_interval(differences)
            rows.append(f"| {WAYS[ours]} | {WAYS[baseline]} | {mean:+.2f} ± {half:.2f} |")
    return rows


def _mean(runs: list[Line], name: str, digits: int) -> str:
    mean, half = mean_and_interval([run[name] for run in runs])
    return f"{mean:.{digits}f} ± {half:.{digits}f}"
