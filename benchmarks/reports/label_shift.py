"""Table of the label shift benchmark."""

import pandas as pd

from benchmarks.tables import TORCH, interval, markdown, page

FASHION, FACES = "fashion-10k", "fer2013"
TITLES = {
    FASHION: "Fashion-MNIST, frequencies reversed: label shift alone",
    FACES: "FER2013, frequencies of FER+: other labels",
}
WAYS = {
    "none": "EM, not calibrated",
    "temperature": "EM, temperature scaling",
    "vector": "EM, vector scaling",
    "bbse": "BBSE, temperature scaling",
}
HEADS = (
    *("method", "estimate", "seeds", "error, points", "accuracy %, even frequencies"),
    *("accuracy %, those of training", "accuracy %, estimated", "accuracy %, true"),
)
INTRODUCTION = f"""\
By `python -m benchmarks label_shift`, from the runs in `label_shift.jsonl`. Means over seeds,
± 95 % intervals by Student's t. {TORCH}.

`estimate_class_prior` (EM) sees the predictions on the test set, without labels. The error is the
total variation between estimated and true class frequencies. Accuracy is that of the predictions
adjusted to the frequencies. Calibration is fitted on held-out data with the labels and the class
frequencies of the training data. BBSE solves for the frequencies by the mean predictions of each
held-out class.

Fashion-MNIST: trained with 17 samples of the first class for each one of the last, tested with
these frequencies reversed. FER2013: trained on four fifths of its labels (embeddings, 20 epochs),
tested on FER+'s. Here the labels differ, not only the frequencies: FER2013 labels 17 % of the faces
neutral, FER+ 36 % of the test faces."""


def report(runs: pd.DataFrame) -> str:
    """Format a table of each data set."""
    parts = [INTRODUCTION]
    for data, of_data in runs.groupby("data", sort=False):
        rows = []
        for method, its in of_data.groupby("method", sort=False):
            for way, shown in WAYS.items():
                base = "temperature" if way == "bbse" else way
                names = [
                    f"error {way}",
                    *(f"accuracy {name}" for name in (f"even {base}", f"source {base}", way)),
                    f"accuracy true {base}",
                ]
                cells = (f"{interval(its[name]):.1f}" for name in names)
                rows.append([method, shown, len(its), *cells])
        parts += [f"## {TITLES[str(data)]}", markdown(HEADS, rows)]
    return page("Class frequencies from unlabelled data", *parts)
