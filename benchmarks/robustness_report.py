"""Render the runs of robustness.py to Markdown and a plot."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measures import mean_and_interval, paired_differences, show_mean
from noisy_data import CORRUPTIONS
from tasks import DATA

from examples.result_files import open_result, save_text

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

Seeds = dict[int, dict[str, Any]]
Methods = dict[str, Seeds]
Settings = dict[tuple[str, str, int], Methods]


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `robustness.md` and `robustness.png`, and return the Markdown."""
    settings = _group(lines)
    parts = [
        "# Robustness to wrong, ambiguous and imbalanced labels",
        "",
        "By `python benchmarks/robustness.py`, from the runs in `robustness.jsonl`. Means of the "
        "last epoch, ± 95 % intervals by Student's t over seeds; the difference is paired by seed. "
        f"torch {torch.__version__}.",
        "",
        "## In short",
        "",
        *_summary(settings),
    ]
    for (data, corruption, epochs), methods in settings.items():
        parts += ["", f"## {data}, {corruption}, {epochs} epochs", "", *_table(methods)]
    text = "\n".join(parts) + "\n"
    save_text(results / "robustness.md", text)
    if settings:
        _plot(settings, results / "robustness.png")
    return text


def _group(lines: list[dict[str, Any]]) -> Settings:
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


def _summary(settings: Settings) -> list[str]:
    """Return a table of cross-entropy, ours and the best other method, with a summary."""
    verdicts: Counter[str] = Counter()
    rows = [
        "| data, labels | cross-entropy: accuracy %, ECE % | ours: accuracy %, ECE % | "
        "best other method: accuracy % | ours less the best other | wrong labels found, AUROC |",
        "|---" * 6 + "|",
    ]
    for (data, corruption, _), methods in settings.items():
        if not {OURS, "cross-entropy"} <= methods.keys():
            continue
        others = (method for method in methods if method != OURS)
        best = max(others, key=lambda method: _mean(methods[method], "accuracy"))
        differences = _differences(methods, best)
        difference, interval = mean_and_interval(differences)
        ahead = show_mean(differences, 1, "+")
        verdict = "" if abs(difference) <= interval else "**" if difference > 0 else "*"
        verdicts[verdict] += 1
        is_found = all("wrong_label_auroc" in line for line in methods[OURS].values())
        cells = [
            _setting_name(data, corruption),
            *(
                f"{show_mean(_values(methods[method], 'accuracy'), 1)}, "
                f"{_mean(methods[method], 'ece'):.1f}"
                for method in ("cross-entropy", OURS)
            ),
            f"{best.replace(', ', ' ')}, {show_mean(_values(methods[best], 'accuracy'), 1)}",
            f"{verdict}{ahead}{verdict}",
            f"{_mean(methods[OURS], 'wrong_label_auroc'):.3f}" if is_found else "",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    words = (
        f"Of {verdicts.total()} settings, ours is significantly better than the best other method "
        f"on {verdicts['**']} (bold), level on {verdicts['']} and significantly worse on "
        f"{verdicts['*']} (italic)."
    )
    return [*rows, "", words]


def _setting_name(data: str, corruption: str) -> str:
    """Format `fashion-10k`, `imbalance-17+pair-30`: Fashion-MNIST, 10,000, 1 to 17, 30 % pair."""
    name, size = data.split("-")
    parts = []
    for part in corruption.split("+"):
        kind, _, rate = part.partition("-")
        parts.append(CORRUPTION_NAMES.get(kind, kind).format(rate))
    return ", ".join([DATA_NAMES.get(name, name), size.replace("k", ",000"), *parts])


def _values(seeds: Seeds, name: str) -> list[float]:
    return [line[name] for line in seeds.values()]


def _mean(seeds: Seeds, name: str) -> float:
    return mean_and_interval(_values(seeds, name))[0]


def _table(methods: Methods) -> list[str]:
    shown = [
        name
        for name in COLUMNS
        if all(name in line for seeds in methods.values() for line in seeds.values())
    ]
    heads = ["method", "seeds", *(COLUMNS[name] for name in shown), "accuracy below ours"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    ordered = sorted(methods.items(), key=lambda item: -_mean(item[1], "accuracy"))
    for method, seeds in ordered:
        cells = [_cell(_values(seeds, name), name) for name in shown]
        rows.append(
            "| " + " | ".join([method, str(len(seeds)), *cells, _behind(methods, method)]) + " |"
        )
    return rows


def _behind(methods: Methods, method: str) -> str:
    """Return ours minus this method's accuracy, over common seeds."""
    if method == OURS or not (differences := _differences(methods, method)):
        return ""
    return _cell(differences, "accuracy")


def _differences(methods: Methods, method: str) -> list[float]:
    ours, other = (
        {seed: line["accuracy"] for seed, line in methods.get(name, {}).items()}
        for name in (OURS, method)
    )
    return list(paired_differences(ours, other).values())


def _cell(values: list[float], name: str) -> str:
    digits = 3 if name in ("nll", "kl_to_truth") or name.startswith("wrong") else 2
    return show_mean(values, digits)


def _plot(settings: Settings, path: Path) -> None:
    """Plot the accuracy of each method, one panel per setting."""
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    most = max(map(len, settings.values()))
    figure = Figure(figsize=(4 * columns, (0.8 + 0.14 * most) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, ((data, corruption, _), methods) in zip(axes, settings.items(), strict=False):
        scores = sorted(
            (*mean_and_interval(_values(seeds, "accuracy")), method)
            for method, seeds in methods.items()
        )
        for place, (mean, interval, method) in enumerate(scores):
            color = "#1f6f8b" if method.startswith("ours") else "#b0b7c3"
            error = None if interval != interval else interval
            axis.errorbar(mean, place, xerr=error, fmt="o", markersize=4, color=color)
        axis.set_yticks(range(len(scores)), [method for *_, method in scores], fontsize=7)
        axis.set_title(f"{data}, {corruption}", fontsize=8)
        axis.set_xlabel("test accuracy %", fontsize=7)
    for axis in axes[len(settings) :]:
        axis.set_visible(False)
    with open_result(path) as file:
        figure.savefig(file, dpi=100, format="png")
