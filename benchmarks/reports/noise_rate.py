"""Tables of the benchmark of noise rates."""

import numpy as np
import pandas as pd

from benchmarks.tables import TORCH, interval, markdown, page

SIZE, HELD_OUT, SHORT, FULL = 2000, 1000, 8, 20
KINDS = ("symmetric", "pair", "instance")
ESTIMATES = {
    "held_back": "`noise_rate()`: held-back training labels",
    "held_out": "`noise_rate_bounds`: held-out labels, trained model",
    "bootstrap": "bootstrap of the beliefs, as `noise_rate()` was before",
    "cleanlab": "cleanlab's confident joint, 5-fold cross-validation",
}
INTRODUCTION = f"""\
By `python -m benchmarks noise_rate`, from the runs in `noise_rate.jsonl`: one for each of five data
sets, three kinds of noise and four rates (0, 0.1 or 0.2, 0.3, 0.4), over {SHORT} and {FULL} epochs
in turn. Means ± 95 % intervals by Student's t over runs. {TORCH}. Seeds 0 to 14; the estimate was
chosen on seeds 100 to 104.

{SIZE:,} training samples, 1,400 of scikit-learn's digits. A tenth of them is held back for the
first half of the training. The held-out labels are half of the test set, {HELD_OUT:,} samples at
most, with the same noise; the other half is the test set of the ECE. An interval covers if the
share of wrong labels, among the training or the held-out ones, lies within it. The error is that of
the value. cleanlab gives no interval.

Rendered faces have 1.7 % wrong labels before noise is added. "Instance" puts wrong labels where a
linear classifier confuses the classes, which a network may learn as if they were right."""


def report(runs: pd.DataFrame) -> str:
    """Format coverage, width and error of each estimate, and calibration errors."""
    parts = [INTRODUCTION]
    for name, title in ESTIMATES.items():
        parts += [f"## {title}", covered(runs, name)]
    return page("Noise rates", *parts, "## ECE after `calibrate`, %", calibrated(runs))


def groups(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of each row, by its name."""
    noisy = runs[runs["rate"] > 0]
    return {
        "all": runs,
        "clean labels": runs[runs["rate"] == 0],
        **{kind: noisy[noisy["kind"] == kind] for kind in KINDS},
        **{f"{epochs} epochs": runs[runs["epochs"] == epochs] for epochs in (SHORT, FULL)},
    }


def covered(runs: pd.DataFrame, estimate: str) -> str:
    """Coverage, width and error, in points."""
    heads = ["runs", "number", "intervals that cover", "width, points", "error, points"]
    which = "held" if estimate == "held_out" else "training"
    rows = []
    for name, its in groups(runs).items():
        true = np.array([each[which] for each in its["true"]])
        found = np.array(its[estimate].tolist()).reshape(len(its), -1)
        error = f"{interval(100 * np.abs(found[:, 0] - true)):.1f}"
        if found.shape[1] == 1:
            rows.append([name, len(its), "", "", error])
            continue
        inside = (found[:, 1] <= true) & (true <= found[:, 2])
        width = f"{interval(100 * (found[:, 2] - found[:, 1])):.1f}"
        rows.append([name, len(its), f"{inside.sum()} ({inside.mean():.0%})", width, error])
    return markdown(heads, rows)


def calibrated(runs: pd.DataFrame) -> str:
    """ECE without calibration, and with clean and with noisy held-out labels."""
    shown = {"none": "not calibrated", "clean": "clean labels", "noisy": "noisy labels"}
    rows = [
        [
            name,
            *(f"{interval(its[f'ece_{each}']):.2f}" for each in shown),
            f"{interval(its['ece_noisy'] - its['ece_clean']):+.2f}",
        ]
        for name, its in groups(runs).items()
    ]
    return markdown(["runs", *shown.values(), "noisy less clean"], rows)
