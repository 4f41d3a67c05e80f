"""Tables of the shift benchmark."""

from collections.abc import Iterator

import pandas as pd

from benchmarks.tables import MEANS, TORCH, Measure, interval, markdown, page, paired

PLAIN = "none"
OURS, BEST = "ours, robust", "calibrated"
MEASURES = {
    "accuracy": Measure("accuracy %"),
    "ece": Measure("ECE %", is_gain=False),
    "aurc": Measure("AURC %", ".2f", is_gain=False),
    "coverage": Measure("coverage of 90 % sets, %"),
    "set_size": Measure("size of 90 % sets", ".2f", is_gain=False),
}
INTRODUCTION = f"""\
By `python -m benchmarks shift`, from the runs in `shift.jsonl`. {MEANS}; differences are paired by
seed. {TORCH}.

All methods train the same perceptron on 8,000 images of Fashion-MNIST for 30 epochs. Calibration,
temperature scaling for others and `BranchTemperatures` for ours, and prediction sets are fitted on
2,000 uncorrupted samples with clean labels. The first 4,000 test images are corrupted by Gaussian
noise (standard deviation 0.05 to 0.3 of the range), Gaussian blur (0.5 to 2 pixels), contrast (0.8
to 0.2), JPEG (quality 50 to 5) and brightness (0.8 to 0.2). Strength 0 is the plain test set; the
others are means over the five corruptions. Bold: significantly better than the best other method's
calibrated predictions, chosen for each cell afterwards; italic: significantly worse."""


def report(runs: pd.DataFrame) -> str:
    """Format the measures by strength, and by corruption."""
    cells = cells_of(runs)
    parts = [INTRODUCTION]
    for labels, its in cells.groupby("labels", sort=False):
        parts.append(f"## Trained on {labels} labels")
        for name, measure in MEASURES.items():
            by_strength = its.groupby(["way", "seed", "strength"], sort=False)[name].mean()
            heads = ["method", *(f"strength {each}" for each in sorted(its["strength"].unique()))]
            rows = list(rows_of(by_strength.reset_index(), "strength", name, measure))
            parts += [f"{measure.title}, by strength", markdown(heads, rows)]
        corrupted = its[its["strength"] > 0]
        for name in ("accuracy", "ece"):
            by_kind = corrupted.groupby(["way", "seed", "kind"], sort=False)[name].mean()
            heads = ["method", *corrupted["kind"].unique()]
            rows = list(rows_of(by_kind.reset_index(), "kind", name, MEASURES[name]))
            parts += [f"{MEASURES[name].title}, by corruption", markdown(heads, rows)]
    return page("Shift: corrupted images", *parts)


def cells_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run, way of predicting, corruption and strength."""
    return pd.DataFrame(
        {
            "labels": run["labels"],
            "seed": run["seed"],
            "way": f"{run['method']}: {way}",
            "kind": shift.rpartition(" ")[0],
            "strength": int(shift.rpartition(" ")[2]),
            **measures,
        }
        for run in runs.to_dict("records")
        for way, shifts in run["found"].items()
        for shift, measures in shifts.items()
    )


def rows_of(cells: pd.DataFrame, axis: str, name: str, measure: Measure) -> Iterator[list[str]]:
    """Yield a row for each way of predicting, with a column for each value of the axis."""
    others = [
        way for way in cells["way"].unique() if not way.startswith(OURS) and way.endswith(BEST)
    ]
    for way, its in cells.groupby("way", sort=False):
        row = [str(way)]
        for value, here in its.groupby(axis, sort=False):
            shown = f"{interval(here[name]):{measure.spec}}"
            if str(way).startswith(OURS) and name != "coverage":
                there = cells[cells[axis] == value].set_index("way")
                best = max(
                    others,
                    key=lambda other: (
                        (1 if measure.is_gain else -1) * there.loc[other, name].mean()
                    ),
                )
                mark = paired(here, there.loc[best], name).mark(is_gain=measure.is_gain)
                shown = f"{mark}{shown}{mark}"
            row.append(shown)
        yield row
