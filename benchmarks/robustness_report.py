"""Render the runs of robustness.py to Markdown and a plot."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measures import mean_and_interval
from noisy_data import CORRUPTIONS
from result_files import atomic_path, save_text
from tasks import DATA

OURS = "ours, robust"
COLUMNS = {
    "accuracy": "accuracy %",
    "mean_class_accuracy": "mean class accuracy %",
    "macro_f1": "macro F1 %",
    "nll": "NLL",
    "ece": "ECE %",
    "aurc": "AURC %",
    "kl_to_truth": "KL to truth",
    "wrong_label_auroc": "AUROC wrong labels",
    "wrong_label_ap": "AP wrong labels",
}

DATA_NAMES = {"fashion": "Fashion-MNIST", "faces": "rendered faces"}
CORRUPTION_NAMES = {
    "imbalance": "1 to {}",
    "symmetric": "{} % symmetric",
    "pair": "{} % pair",
    "instance": "{} % by instance",
}

Methods = dict[str, dict[int, dict[str, Any]]]
Settings = dict[tuple[str, str, int], Methods]


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `robustness.md` and `robustness.png`, and return the Markdown."""
    settings = group(lines)
    parts = [
        "# Robustness to wrong, ambiguous and unbalanced labels",
        "",
        "By `python benchmarks/robustness.py`, from the runs in `robustness.jsonl`. Means of the "
        "last epoch, ± 95 % intervals by Student's t over seeds; the difference is paired by seed. "
        f"torch {torch.__version__}.",
        "",
        "## In short",
        "",
        *summary(settings),
    ]
    for (data, corruption, epochs), methods in settings.items():
        parts += ["", f"## {data}, {corruption}, {epochs} epochs", "", *_table(methods)]
    text = "\n".join(parts) + "\n"
    save_text(results / "robustness.md", text)
    if settings:
        _plot(settings, results / "robustness.png")
    return text


def group(lines: list[dict[str, Any]]) -> Settings:
    settings: Settings = defaultdict(lambda: defaultdict(dict))
    data, corruptions = list(DATA), list(CORRUPTIONS)
    for line in sorted(
        lines,
        key=lambda line: (
            data.index(line["data"]),
            corruptions.index(line["corruption"]),
            line["method"],
        ),
    ):
        key = (line["data"], line["corruption"], line["epochs"])
        settings[key][line["method"]][line["seed"]] = line
    return settings


def summary(settings: Settings) -> list[str]:
    """Cross-entropy, ours, and the best other method of each setting, as a table."""
    rows = [
        "| data, labels | cross-entropy: accuracy %, ECE % | ours: accuracy %, ECE % | "
        "best other method: accuracy % | ours less the best other | wrong labels found, AUROC |",
        "|---" * 6 + "|",
    ]
    for (data, corruption, _), methods in settings.items():
        if not {OURS, "cross-entropy"} <= methods.keys():
            continue
        means = {
            method: mean_and_interval([line["accuracy"] for line in seeds.values()])
            for method, seeds in methods.items()
        }
        best = max((method for method in means if method != OURS), key=lambda each: means[each][0])
        difference, interval = mean_and_interval(_differences(methods, best))
        ahead = f"{difference:+.1f}" + ("" if interval != interval else f" ± {interval:.1f}")
        found = [line.get("wrong_label_auroc") for line in methods[OURS].values()]
        cells = [
            _setting_name(data, corruption),
            *(
                f"{_brief(means[method])}, {_mean_of(methods[method], 'ece'):.1f}"
                for method in ("cross-entropy", OURS)
            ),
            f"{best.replace(', ', ' ')}, {_brief(means[best])}",
            f"**{ahead}**" if difference > interval else ahead,
            "" if None in found else f"{_mean_of(methods[OURS], 'wrong_label_auroc'):.3f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _setting_name(data: str, corruption: str) -> str:
    """`fashion-10k`, `imbalance-17+pair-30`: Fashion-MNIST, 10,000, 1 to 17, 30 % pair."""
    name, size = data.split("-")
    parts = []
    for part in corruption.split("+"):
        kind, _, rate = part.partition("-")
        parts.append(CORRUPTION_NAMES.get(kind, kind).format(rate))
    return ", ".join([DATA_NAMES.get(name, name), size.replace("k", ",000"), *parts])


def _brief(mean_and_width: tuple[float, float]) -> str:
    mean, interval = mean_and_width
    return f"{mean:.1f}" + ("" if interval != interval else f" ± {interval:.1f}")


def _mean_of(seeds: dict[int, dict[str, Any]], name: str) -> float:
    return mean_and_interval([line[name] for line in seeds.values()])[0]


def _table(methods: Methods) -> list[str]:
    shown = [
        name
        for name in COLUMNS
        if all(name in line for seeds in methods.values() for line in seeds.values())
    ]
    heads = ["method", "seeds", *(COLUMNS[name] for name in shown), "accuracy below ours"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    ordered = sorted(
        methods.items(),
        key=lambda item: -mean_and_interval([line["accuracy"] for line in item[1].values()])[0],
    )
    for method, seeds in ordered:
        cells = [_cell([line[name] for line in seeds.values()], name) for name in shown]
        rows.append(
            "| " + " | ".join([method, str(len(seeds)), *cells, _behind(methods, method)]) + " |"
        )
    return rows


def _behind(methods: Methods, method: str) -> str:
    """Ours minus this method's accuracy, over the seeds that both have."""
    if method == OURS or not (differences := _differences(methods, method)):
        return ""
    return _cell(differences, "accuracy")


def _differences(methods: Methods, method: str) -> list[float]:
    ours, other = methods.get(OURS, {}), methods[method]
    return [
        ours[seed]["accuracy"] - other[seed]["accuracy"]
        for seed in sorted(ours.keys() & other.keys())
    ]


def _cell(values: list[float], name: str) -> str:
    mean, interval = mean_and_interval(values)
    digits = 3 if name in ("nll", "kl_to_truth") or name.startswith("wrong") else 2
    return f"{mean:.{digits}f}" + ("" if interval != interval else f" ± {interval:.{digits}f}")


def _plot(settings: Settings, path: Path) -> None:
    """Accuracy of each method, one panel a setting."""
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, ((data, corruption, _), methods) in zip(axes, settings.items(), strict=False):
        scores = sorted(
            (*mean_and_interval([line["accuracy"] for line in seeds.values()]), method)
            for method, seeds in methods.items()
        )
        for place, (mean, interval, method) in enumerate(scores):
            color = "#1f6f8b" if method.startswith("ours") else "#b0b7c3"
            error = None if interval != interval else interval
            axis.errorbar(mean, place, xerr=error, fmt="o", color=color)
        axis.set_yticks(range(len(scores)), [method for *_, method in scores], fontsize=7)
        axis.set_title(f"{data}, {corruption}", fontsize=8)
        axis.set_xlabel("test accuracy %", fontsize=7)
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
