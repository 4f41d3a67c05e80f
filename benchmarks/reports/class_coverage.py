"""Tables of the benchmark of coverage by class."""

import numpy as np
import pandas as pd

from benchmarks.tables import TORCH, interval, markdown, page

DRAWS, NUM_CLASSES = 20, 10
# Held-out samples of each class: 100 to 1.
COUNTS = [round(2000 * 100 ** (-each / (NUM_CLASSES - 1))) for each in range(NUM_CLASSES)]
PENALTY, FREE_RANKS = 0.05, 2  # of RAPS
THRESHOLDS = {"all": "one for all", "class": "one for each class"}
INTRODUCTION = f"""\
By `python -m benchmarks class_coverage`, from the runs in `class_coverage.jsonl`. Means over
{{seeds}} seeds, ± 95 % intervals by Student's t. {TORCH}.

Fashion-MNIST with 100 samples of the first class for each one of the last: about 2,500 images to
train on for 30 epochs, {sum(COUNTS):,} held-out images ({COUNTS[0]:,} to {COUNTS[-1]} of a class)
to fit a temperature on, and as many others to fit the sets on. Coverage is counted by class on the
official 10,000 test images; the target is 90 %. Each seed averages {DRAWS} draws of the held-out
images that the sets are fitted on. RAPS has a penalty of {PENALTY} for each rank beyond
{FREE_RANKS}.

"As held out" weights the classes by their frequencies in the held-out data, "even" equally.
TorchCP gets the same held-out data; for "aps" and "raps" it draws other random numbers."""


def report(runs: pd.DataFrame) -> str:
    """Format coverage by class, and coverage and size by score."""
    parts = [INTRODUCTION.format(seeds=runs["seed"].nunique())]
    for method, its in runs.groupby("method", sort=False):
        parts += [f"## {method}", by_class(its), by_score(its)]
    return page("Coverage of every class", *parts)


def of_classes(runs: pd.DataFrame, measure: str, name: str) -> np.ndarray:
    """Return a measure (seeds, classes), of the runs that have it."""
    return np.array([found[name] for found in runs[measure].dropna()]).reshape(-1, NUM_CLASSES)


def by_class(runs: pd.DataFrame) -> str:
    """Coverage of each class."""
    columns = {
        "coverage %, lac, one threshold": "lac all",
        "coverage %, lac, one for each class": "lac class",
        "aps, one for each class": "aps class",
        "raps, one for each class": "raps class",
    }
    coverage = [of_classes(runs, "coverage", name) for name in columns.values()]
    rows = [
        [each, count, *(f"{interval(column[:, each]):.1f}" for column in coverage)]
        for each, count in enumerate(COUNTS)
    ]
    return markdown(["class", "held-out samples", *columns], rows)


def by_score(runs: pd.DataFrame) -> str:
    """Coverage and set size of each score and kind of thresholds."""
    heads = (
        *("score", "thresholds", "coverage %, as held out", "coverage %, lowest class"),
        *("set size, as held out", "set size, even"),
        *("TorchCP's set size, as held out", "TorchCP's set size, even"),
    )
    as_held_out = np.array(COUNTS) / sum(COUNTS)
    even = np.full(NUM_CLASSES, 1 / NUM_CLASSES)
    rows = []
    for score in ("lac", "aps", "raps"):
        for kind, shown in THRESHOLDS.items():
            name = f"{score} {kind}"
            coverage = of_classes(runs, "coverage", name)
            lowest = coverage[:, coverage.mean(0).argmin()]
            sizes = [
                of_classes(runs, measure, name) if measure in runs else np.zeros((0, NUM_CLASSES))
                for measure in ("size", "torchcp_size")
            ]
            rows.append(
                [
                    *(score, shown, f"{interval(coverage @ as_held_out):.1f}"),
                    f"{interval(lowest):.1f}",
                    *(f"{interval(size @ w):.3f}" for size in sizes for w in (as_held_out, even)),
                ]
            )
    return markdown(heads, rows)
