"""Table of the benchmark with several annotators."""

import pandas as pd

from benchmarks.data.annotators import MOST_LABELS, NUM_ANNOTATORS
from benchmarks.data.tasks import FIRST_SEED
from benchmarks.tables import TORCH, interval, markdown, page, paired, unfolded

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
INTRODUCTION = f"""\
By `python -m benchmarks annotators`, from `annotators.jsonl`. {NUM_ANNOTATORS} simulated
annotators, 1 to {MOST_LABELS} labels per sample. All methods: encoder 784-{WIDTH}-128, {EPOCHS}
epochs, last epoch. The others train the paper's MLP head with cross-entropy. Means ± 95 % intervals
by Student's t over seeds from {FIRST_SEED}. {TORCH}.

- accuracy: on the test set; difference: ours with annotators less the method, paired by seed, bold
  if significant
- right consensus: share of the training samples whose suggested label is right
- matrix error: mean absolute error of the annotators' matrices, in points
- CPU: seconds of aggregation, cross-validation and training"""


def report(runs: pd.DataFrame) -> str:
    """Format a table of each data set."""
    parts = [INTRODUCTION]
    for data, its in runs.groupby("data", sort=False):
        parts += [
            f"## {data}: {len(its)} seeds, {interval(its['labels']):.1f} labels per sample, "
            f"{interval(its['right']):.1f} % of them right",
            table(unfolded(its, "found")),
        ]
    return page("Labels of several annotators", *parts)


def table(methods: dict[str, pd.DataFrame]) -> str:
    """Compare all methods."""
    rows = []
    for name in METHODS:
        runs = methods[name]
        ahead = paired(methods[OURS], runs, "accuracy")
        mark = "**" if ahead.is_significant else ""
        cells = [
            f"{interval(runs.get(measure, ())):{spec}}"
            for measure, spec in (("consensus", ".1f"), ("matrix_error", ".2f"), ("cpu", ".0f"))
        ]
        shown = "-" if name == OURS else f"{mark}{ahead:+.1f}{mark}"
        rows.append([name, f"{interval(runs['accuracy']):.1f}", shown, *cells])
    heads = ("method", "accuracy %", "difference", "right consensus %", "matrix error", "CPU s")
    return markdown(heads, rows)
