"""Tables of the calibration benchmark."""

import pandas as pd

from benchmarks.tables import TORCH, interval, markdown, page, paired

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
INTRODUCTION = f"""\
By `python -m benchmarks calibration`, from the runs in `calibration.jsonl`. Means over seeds,
± 95 % intervals by Student's t; differences are paired by seed. {TORCH}.

10,000 images of Fashion-MNIST: 8,000 for training, over 30 epochs, and 2,000 of the training set
held out to fit the calibration; ECE (15 bins) and NLL on the official 10,000 test images. Held-out
labels are clean, or have the noise of the training labels, which biases the temperature. With
"learned noise matrix" ours saw only noisy labels and corrected for the noise with the matrix from
`RefurbishedTargets`; cross-entropy has no such estimate.

Prediction sets are fitted after the temperature (clean labels) on 5,000 random test images and
evaluated on the other 5,000, for a coverage of 90 %."""


def report(runs: pd.DataFrame) -> str:
    """Format the tables of each corruption."""
    parts = [INTRODUCTION]
    for corruption, setting in runs.groupby("corruption", sort=False):
        methods = {str(name): its for name, its in setting.groupby("method", sort=False)}
        parts += [f"## {corruption}", calibrations(methods), prediction_sets(methods)]
        if methods.keys() >= {OURS, BASELINE}:
            parts.append(contests(methods[OURS], methods[BASELINE]))
    return page("Calibration", *parts)


def calibrations(methods: dict[str, pd.DataFrame]) -> str:
    """Accuracy, ECE and NLL after each calibration."""
    rows = []
    for method, runs in methods.items():
        for way, label in WAYS.items():
            cells = [
                f"{interval(runs.get(f'{measure}_{way}', ())):{spec}}"
                for measure, spec in (("accuracy", ".2f"), ("ece", ".2f"), ("nll", ".3f"))
            ]
            if cells[0] != "-":
                rows.append([method, label, len(runs), *cells])
    return markdown(["method", "calibration", "seeds", "accuracy %", "ECE %", "NLL"], rows)


def prediction_sets(methods: dict[str, pd.DataFrame]) -> str:
    """Coverage and size of prediction sets."""
    rows = []
    for method, runs in methods.items():
        coverage = runs["coverage"]
        farthest = coverage[(coverage - 90).abs().idxmax()]
        size = f"{interval(runs['set_size']):.3f}"
        rows.append([method, f"{interval(coverage):.2f}", f"{farthest:.2f}", size])
    return markdown(["method", "coverage %", "farthest seed %", "mean set size"], rows)


def contests(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """ECE of ours less that of cross-entropy, on the same held-out samples."""
    rows = [
        [WAYS[way], WAYS[other], f"{paired(ours, theirs, f'ece_{way}', f'ece_{other}'):+.2f}"]
        for way, other in CONTESTS
    ]
    return markdown(["ours", "cross-entropy", "ECE difference, points"], rows)
