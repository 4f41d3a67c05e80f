"""Tables and figure of the robustness benchmark."""

from collections import Counter

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.tasks import DATA
from benchmarks.tables import (
    TORCH,
    Measure,
    by_accuracy,
    interval,
    known,
    markdown,
    means,
    page,
    paired,
)

Settings = list[tuple[tuple[str, str, int], pd.DataFrame]]  # data, corruption, epochs; runs

OURS = "ours, robust"
MEASURES = {
    "accuracy": Measure("accuracy %", ".2f"),
    "mean_class_accuracy": Measure("mean class accuracy %", ".2f"),
    "macro_f1": Measure("macro F1 %", ".2f"),
    "nll": Measure("NLL", ".3f"),
    "ece": Measure("ECE %", ".2f"),
    "aurc": Measure("AURC %", ".2f"),
    "kl_to_truth": Measure("KL to truth", ".3f"),
    "wrong_label_auroc": Measure("AUROC wrong labels", ".3f"),
    "wrong_label_ap": Measure("AP wrong labels", ".3f"),
}
SUMMARY = (
    *("data, labels", "cross-entropy: accuracy %, ECE %", "ours: accuracy %, ECE %"),
    *("best other method: accuracy %", "ours less the best other", "wrong labels found, AUROC"),
)
DATA_NAMES = {"fashion": "Fashion-MNIST", "faces": "rendered faces"}
CORRUPTION_NAMES = {
    "imbalance": "1 to {}",
    "symmetric": "{} % symmetric",
    "pair": "{} % pair",
    "instance": "{} % by instance",
}


def report(runs: pd.DataFrame) -> str:
    """Format a summary, and a table of each setting."""
    settings = by_setting(runs)
    parts = [
        "By `python -m benchmarks robustness`, from the runs in `robustness.jsonl`. Means of the "
        "last epoch, ± 95 % intervals by Student's t over seeds; the difference is paired by seed. "
        f"{TORCH}.",
        "## In short",
        *summary(settings),
    ]
    for (data, corruption, epochs), setting in settings:
        parts += [f"## {data}, {corruption}, {epochs} epochs", table(setting)]
    return page("Robustness to wrong, ambiguous and imbalanced labels", *parts)


def by_setting(runs: pd.DataFrame) -> Settings:
    """Return the runs of each setting, in the order of data and corruptions."""
    places = {"data": list(DATA), "corruption": list(CORRUPTIONS)}
    ordered = runs.astype({name: pd.CategoricalDtype(all_) for name, all_ in places.items()})
    by_name = ordered.sort_values("method", kind="stable")  # where two are as accurate
    return list(by_name.groupby(["data", "corruption", "epochs"], observed=True))


def summary(settings: Settings) -> list[str]:
    """Compare cross-entropy, ours and the best other method, and count the verdicts."""
    marks: Counter[str] = Counter()
    rows = []
    for (data, corruption, epochs), setting in settings:
        methods = by_accuracy(setting)
        if not {OURS, "cross-entropy"} <= methods.keys():
            continue
        ours, best = methods[OURS], next(name for name in methods if name != OURS)
        ahead = paired(ours, methods[best], "accuracy")
        marks[ahead.mark()] += 1
        found = known(ours, MEASURES).get("wrong_label_auroc")
        rows.append(
            [
                setting_name(data, corruption) + length(epochs, settings),
                *(
                    f"{interval(runs['accuracy']):.1f}, {runs['ece'].mean():.1f}"
                    for runs in (methods["cross-entropy"], ours)
                ),
                f"{best.replace(', ', ' ')}, {interval(methods[best]['accuracy']):.1f}",
                ahead.marked("+.1f"),
                f"{ours['wrong_label_auroc'].mean():.3f}" if found else "",
            ]
        )
    return [
        markdown(SUMMARY, rows),
        f"Of {marks.total()} settings, ours is significantly better than the best other method on "
        f"{marks['**']} (bold), level on {marks['']} and significantly worse on {marks['*']} "
        "(italic).",
    ]


def table(setting: pd.DataFrame) -> str:
    """Compare all methods, the most accurate first."""
    measures, methods = known(setting, MEASURES), by_accuracy(setting)
    heads = ["method", "seeds", *(each.title for each in measures.values()), "accuracy below ours"]
    rows = []
    for name, runs in methods.items():
        behind = ""
        if name != OURS and OURS in methods:
            behind = f"{paired(methods[OURS], runs, 'accuracy'):.2f}"
        rows.append([name, len(runs), *means(runs, measures), behind])
    return markdown(heads, rows)


def setting_name(data: str, corruption: str) -> str:
    """Format `fashion-10k`, `imbalance-17+pair-30`: Fashion-MNIST, 10,000, 1 to 17, 30 % pair."""
    name, size = data.split("-")
    parts = []
    for part in corruption.split("+"):
        kind, _, rate = part.partition("-")
        parts.append(CORRUPTION_NAMES.get(kind, kind).format(rate))
    return ", ".join([DATA_NAMES.get(name, name), size.replace("k", ",000"), *parts])


def length(epochs: int, settings: Settings) -> str:
    """Format the length of a training, where not all are as long."""
    return f", {epochs} epochs" if len({each for (*_, each), _ in settings}) > 1 else ""


def draw(runs: pd.DataFrame) -> Figure:
    """Draw the accuracy of each method, one panel per setting."""
    settings = by_setting(runs)
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    most = max(part["method"].nunique() for _, part in settings)
    figure = Figure(
        figsize=(4 * columns, (0.8 + 0.14 * most) * rows), dpi=100, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, ((data, corruption, epochs), part) in zip(axes, settings, strict=False):
        methods = by_accuracy(part)
        for place, (method, its) in enumerate(reversed(methods.items())):
            mean, half = interval(its["accuracy"])
            color = "#1f6f8b" if method.startswith("ours") else "#b0b7c3"
            axis.errorbar(mean, place, xerr=half, fmt="o", markersize=4, color=color)
        axis.set_yticks(range(len(methods)), list(reversed(methods)), fontsize=7)
        axis.set_title(f"{data}, {corruption}{length(epochs, settings)}", fontsize=8)
        axis.set_xlabel("test accuracy %", fontsize=7)
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    return figure
