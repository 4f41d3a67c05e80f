"""Render the runs of robustness.py to Markdown and a plot."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from measures import mean_and_interval
from result_files import atomic_path, save_text

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

Settings = dict[tuple[str, str, int], dict[str, dict[int, dict[str, Any]]]]


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `robustness.md` and `robustness.png`, and return the Markdown."""
    settings = _group(lines)
    parts = [
        "# Robustness to wrong, ambiguous and unbalanced labels",
        "",
        "By `python benchmarks/robustness.py`, from the runs in `robustness.jsonl`. Means of the "
        "last epoch, ± 95 % intervals by Student's t over seeds; the difference is paired by seed. "
        f"torch {torch.__version__}.",
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
    for line in sorted(lines, key=lambda line: (line["data"], line["corruption"], line["method"])):
        key = (line["data"], line["corruption"], line["epochs"])
        settings[key][line["method"]][line["seed"]] = line
    return settings


def _table(methods: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
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


def _behind(methods: dict[str, dict[int, dict[str, Any]]], method: str) -> str:
    """Ours minus this method's accuracy, over the seeds that both have."""
    both = sorted(methods.get(OURS, {}).keys() & methods[method].keys())
    if method == OURS or not both:
        return ""
    ours, other = methods[OURS], methods[method]
    return _cell([ours[seed]["accuracy"] - other[seed]["accuracy"] for seed in both], "accuracy")


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
