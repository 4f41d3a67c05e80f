"""Render the runs of human_labels.py to Markdown."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from human_methods import METHODS, TWO_VIEWS, WITHOUT
from human_tasks import NETWORKS, TASKS
from measures import mean_and_interval, paired_differences, show_mean

from examples.result_files import save_text


class Measure(NamedTuple):
    """Format of a measure, and whether higher is better."""

    title: str
    digits: int
    is_gain: bool


TIME = "cpu_seconds"
MEASURES = {
    "accuracy": Measure("accuracy %", 1, True),
    "mean_class_accuracy": Measure("mean class accuracy %", 1, True),
    "accuracy_at_test_frequencies": Measure("accuracy at test frequencies %", 1, True),
    "nll": Measure("NLL", 3, False),
    "ece": Measure("ECE %", 1, False),
    "aurc": Measure("AURC %", 2, False),
    "kl_to_votes": Measure("KL to votes", 3, False),
    "wrong_label_auroc": Measure("AUROC wrong labels", 3, True),
    "wrong_label_ap": Measure("AP wrong labels", 3, True),
    TIME: Measure("CPU seconds", 0, False),
}
COMPARED = [name for name in MEASURES if name != TIME]
INTRODUCTION = """\
# Human labels

By `python benchmarks/human_labels.py`, from `human_labels.jsonl`. Means of the last epoch, ± 95 %
intervals by Student's t over seeds; differences are paired by seed, **bold** where significantly
better and *italic* where significantly worse. All methods have the same network, augmentation,
optimizer and number of forward passes; those with two views train for half the epochs. Accuracy,
NLL, ECE, AURC and KL are at the class frequencies of the training labels, mean class accuracy at
even ones, and accuracy at test frequencies at those of the test set. FER tasks are evaluated on the
majority of FER+'s votes, without test faces that are in the training set; wrong labels are counted
where more than five of ten votes agree."""

Seeds = dict[int, dict[str, Any]]
Methods = dict[str, Seeds]


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `human_labels.md` and return it."""
    settings: dict[tuple[str, str, int, int], Methods] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        setting = (line["task"], line["network"], line["samples"], line["epochs"])
        settings[setting][line["method"]][line["seed"]] = line
    parts = [INTRODUCTION, f"torch {torch.__version__}."]
    for setting in sorted(settings, key=_place):
        task, network, samples, epochs = setting
        size = f"{samples:,} samples" if samples else "all samples"
        methods = settings[setting]
        parts += ["", f"## {task}, {network}, {size}, {epochs} epochs", "", *_table(methods)]
        for title, second, rows in (
            (
                "Ours less the most accurate other method with as many views or fewer",
                "other",
                _ahead,
            ),
            ("What each part brings: ours less ours without it", "seeds", _parts),
            ("Corrected less primary", "seeds", _corrected),
        ):
            if found := list(rows(methods)):
                heads = ["method", second]
                parts += ["", f"{title}:", "", *_heads(heads, _shown(methods, COMPARED)), *found]
    text = "\n".join(parts) + "\n"
    save_text(results / "human_labels.md", text)
    return text


def _place(setting: tuple[str, str, int, int]) -> tuple[int, int, int, int]:
    task, network, samples, epochs = setting
    return TASKS.index(task), NETWORKS.index(network), samples, epochs


def _shown(methods: Methods, names: list[str]) -> list[str]:
    """Return the measures that all runs have, and the time, which some have."""
    lines = [line for seeds in methods.values() for line in seeds.values()]
    return [
        name
        for name in names
        if all(name in line for line in lines)
        or (name == TIME and any(name in line for line in lines))
    ]


def _heads(first: list[str], names: list[str]) -> list[str]:
    heads = [*first, *(MEASURES[name].title for name in names)]
    return ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]


def _table(methods: Methods) -> Iterator[str]:
    names = _shown(methods, list(MEASURES))
    yield from _heads(["method", "seeds"], names)
    for method in sorted(methods, key=lambda method: -_mean(methods[method], "accuracy")):
        seeds = methods[method]
        found = {name: list(_by_seed(seeds, name).values()) for name in names}
        cells = [
            show_mean(values, MEASURES[name].digits) if values else "-"
            for name, values in found.items()
        ]
        yield "| " + " | ".join([method, str(len(seeds)), *cells]) + " |"


def _mean(seeds: Seeds, name: str) -> float:
    return mean_and_interval([line[name] for line in seeds.values()])[0]


def _ahead(methods: Methods) -> Iterator[str]:
    """Yield a row for each of ours: its differences to the most accurate other method."""
    for ours in METHODS:
        others = [
            other
            for other in methods
            if not other.startswith("ours") and (ours in TWO_VIEWS or other not in TWO_VIEWS)
        ]
        if ours in methods and ours.startswith("ours") and others:
            best = max(others, key=lambda other: _mean(methods[other], "accuracy"))
            cells = [
                _difference(_by_seed(methods[ours], name), _by_seed(methods[best], name), name)
                for name in _shown(methods, COMPARED)
            ]
            yield "| " + " | ".join([ours, best, *cells]) + " |"


def _parts(methods: Methods) -> Iterator[str]:
    """One row for each part of ours: what it changes."""
    for method in WITHOUT:
        if method in methods and "ours" in methods:
            cells = [
                _difference(_by_seed(methods["ours"], name), _by_seed(methods[method], name), name)
                for name in _shown(methods, COMPARED)
            ]
            yield "| " + " | ".join([method, str(len(methods[method])), *cells]) + " |"


def _corrected(methods: Methods) -> Iterator[str]:
    """Yield a row for each of ours: corrected less primary."""
    for method in METHODS:
        if method in methods and method.startswith("ours"):
            seeds = methods[method]
            cells = [
                _difference(_by_seed(seeds, name), _by_seed(seeds, f"primary_{name}"), name)
                for name in _shown(methods, COMPARED)
            ]
            yield "| " + " | ".join([method, str(len(seeds)), *cells]) + " |"


def _by_seed(seeds: Seeds, name: str) -> dict[int, float]:
    return {seed: line[name] for seed, line in seeds.items() if name in line}


def _difference(ours: dict[int, float], theirs: dict[int, float], name: str) -> str:
    """Return the mean of paired differences, marked if significant."""
    differences = list(paired_differences(ours, theirs).values())
    if not differences:
        return "-"
    mean, interval = mean_and_interval(differences)
    mark = ("**" if (mean > 0) == MEASURES[name].is_gain else "*") if abs(mean) > interval else ""
    return f"{mark}{show_mean(differences, MEASURES[name].digits, '+')}{mark}"
