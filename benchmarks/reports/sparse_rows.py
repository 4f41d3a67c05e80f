"""Table of the sparse rows benchmark."""

import pandas as pd

from benchmarks.tables import MEANS, TORCH, Measure, interval, known, markdown, page, paired

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
are those of `robustness.md`, and of `human_labels.md` (embeddings) for faces."""


def report(runs: pd.DataFrame) -> str:
    """Format a table with a row for each setting."""
    rows = []
    for (data, labels), its in runs.groupby(["data", "labels"], sort=False):
        dense, sparse = (its[(its["kept"] > 0) == is_sparse] for is_sparse in (False, True))
        measures = known(its, MEASURES)
        differences = [
            paired(sparse, dense, name).marked(f"+{measure.spec}", is_gain=measure.is_gain)
            if name in measures
            else "-"
            for name, measure in MEASURES.items()
        ]
        accuracies = [f"{interval(each['accuracy']):.1f}" for each in (dense, sparse)]
        rows.append([data, labels, len(sparse), *accuracies, *differences])
    heads = ["data", "labels", "seeds", "accuracy %: all stored", "four stored"]
    heads += [f"difference: {measure.title}" for measure in MEASURES.values()]
    return page("Sparse rows", INTRODUCTION, markdown(heads, rows))
