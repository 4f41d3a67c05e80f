"""Table of the selection benchmark."""

import pandas as pd

from benchmarks.tables import MEANS, TORCH, Measure, interval, markdown, page, paired, unfolded

BASELINE = "maximum probability"
MEASURES = {
    "aurc": Measure("AURC %", ".2f", is_gain=False),
    "augrc": Measure("AUGRC %", ".2f", is_gain=False),
    "risk": Measure("error rate at 80 % coverage, %", ".2f", is_gain=False),
}
INTRODUCTION = f"""\
By `python -m benchmarks selection`, from the runs in `selection.jsonl`. {MEANS}; differences are
paired by seed. {TORCH}.

`RobustLoss` trains one network for each row and seed on 10,000 samples: 20 epochs on frozen
embeddings of EfficientNet-Lite0, 30 on the pixels of Fashion-MNIST. All scores rank the same
predictions, for the class frequencies of the labels. Confidence is one minus the normalized
entropy; margin is the difference of the two largest probabilities. `SelectionScore` was chosen from
some 60 scores on FER2013 and CIFAR-10N with another seed. Differences are from the maximum
probability; bold: significantly better, italic: significantly worse."""


def report(runs: pd.DataFrame) -> str:
    """Format a table of each data set."""
    parts = [INTRODUCTION]
    heads = ["score", *(head for each in MEASURES.values() for head in (each.title, "difference"))]
    for data, its in runs.groupby("data", sort=False):
        scores = unfolded(its, "found")
        rows = []
        for name, found in scores.items():
            row = [name]
            for column, measure in MEASURES.items():
                row.append(f"{interval(found[column]):{measure.spec}}")
                difference = paired(found, scores[BASELINE], column)
                marked = difference.marked(f"+{measure.spec}", is_gain=measure.is_gain)
                row.append("" if name == BASELINE else marked)
            rows.append(row)
        error = f"{len(its)} seeds, error rate {interval(its['error']):.1f} %"
        parts += [f"## {data}", error, markdown(heads, rows)]
    return page("Selective prediction", *parts)
