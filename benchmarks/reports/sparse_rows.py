"""Table of the sparse rows benchmark."""

from collections.abc import Mapping

import pandas as pd

from benchmarks.tables import (
    MEANS,
    TORCH,
    Interval,
    Measure,
    interval,
    known,
    markdown,
    page,
    paired,
)

MEASURES = {
    "accuracy": Measure("accuracy %", ".2f"),
    "nll": Measure("NLL", ".3f", is_gain=False),
    "ece": Measure("ECE %", ".2f", is_gain=False),
    "aurc": Measure("AURC %", ".2f", is_gain=False),
    "wrong_label_auroc": Measure("AUROC wrong labels", ".3f"),
}
INTRODUCTION = f"""\
By `python -m benchmarks sparse_rows`, from the runs in `sparse_rows.jsonl`. {MEANS};
differences are paired by seed, **bold** where significantly better and *italic* where significantly
worse. {TORCH}.

`RobustLoss` stores of each sample all beliefs in single precision, or with `kept=4` the label's and
the three largest others in half precision, and the sum of the rest; of the noise counts of a label
twice as many. By default it does so with more than 32 classes, and stores 15. Networks and epochs
are those of `robustness.md`, and of `human_labels.md` (embeddings) for faces. The last row is the
mean over the settings, with its interval."""


def report(runs: pd.DataFrame) -> str:
    """Format a table with a row for each setting."""
    rows, settings = [], []
    for (data, labels), its in runs.groupby(["data", "labels"], sort=False):
        dense, sparse = (its[(its["kept"] > 0) == is_sparse] for is_sparse in (False, True))
        found = {name: paired(sparse, dense, name) for name in known(its, MEASURES)}
        settings.append({name: difference.mean for name, difference in found.items()})
        accuracies = [f"{interval(each['accuracy']):.1f}" for each in (dense, sparse)]
        rows.append([data, labels, len(sparse), *accuracies, *_marked(found)])
    of_all = pd.DataFrame(settings)
    overall = {name: interval(of_all[name]) for name in of_all}
    rows.append(["mean", "of these settings", "", "", "", *_marked(overall)])
    heads = ["data", "labels", "seeds", "accuracy %: all stored", "four stored"]
    heads += [f"difference: {measure.title}" for measure in MEASURES.values()]
    return page("Sparse rows", INTRODUCTION, markdown(heads, rows))


def _marked(differences: Mapping[str, Interval]) -> list[str]:
    """Return a cell for each measure."""
    return [
        differences[name].marked(f"+{measure.spec}", is_gain=measure.is_gain)
        if name in differences
        else "-"
        for name, measure in MEASURES.items()
    ]
