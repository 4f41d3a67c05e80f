"""Render the runs of doubtful_labels.py to Markdown."""

from pathlib import Path
from typing import Any

import torch
from measures import mean_and_interval, show_mean

from examples.result_files import save_text
from reliability_balance.labels import KNOWN_VERDICTS

OURS = "ours"


def write_report(lines: list[dict[str, Any]], results: Path) -> str:
    """Write `doubtful_labels.md` and return it."""
    parts = [
        "# Finding wrong labels",
        "",
        "By `python benchmarks/doubtful_labels.py`, from the runs in `doubtful_labels.jsonl`. "
        "Means ± 95 % intervals by Student's t over seeds from 100; settings were chosen on lower "
        f"seeds. torch {torch.__version__}. Ours has targets for short trainings: the library's "
        "defaults with `momentum=0.7, warmup=2`.",
    ]
    data: dict[str, list[dict[str, Any]]] = {line["data"]: [] for line in lines}
    for line in sorted(lines, key=lambda line: line["seed"]):
        data[line["data"]].append(line)
    for name, runs in data.items():
        if "found" in runs[0]:
            parts += ["", f"## fashion-10k, {name}", "", *_finders(runs)]
    noise = {name: runs for name, runs in data.items() if "noise" in runs[0]}
    if noise:
        parts += ["", "## Estimated share of wrong labels", "", *_noise(noise)]
    for runs in data.values():
        if "ambiguous_auroc" in runs[0]:
            parts += ["", "## Rendered faces: mislabelled or ambiguous", "", *_kinds(runs)]
    text = "\n".join(parts) + "\n"
    save_text(results / "doubtful_labels.md", text)
    return text


def _finders(runs: list[dict[str, Any]]) -> list[str]:
    """Ours is one training; cleanlab needs five, for 5-fold cross-validation of the same network.

    cleanlab is evaluated with both of its scores, after as many epochs as in our other benchmarks
    and after as few as ours.
    """
    rows = [
        "| finder | epochs | AUROC | AP | CPU s | wall s | CPU time of ours / finder "
        "| AUROC of ours less finder | AP of ours less finder |",
        "|---" * 9 + "|",
    ]
    for finder in runs[0]["found"]:
        each = [run["found"][finder] for run in runs]
        ours = [run["found"][OURS] for run in runs]
        epochs = str(each[0]["epochs"])
        cells = [finder.removesuffix(f" {epochs}").replace("_", " "), epochs]
        cells += [show_mean([found[name] for found in each], 3) for name in ("auroc", "ap")]
        cells += [show_mean([found[name] for found in each], 1) for name in ("cpu", "wall")]
        pairs = list(zip(ours, each, strict=True))
        if finder == OURS:
            cells += ["", "", ""]
        else:
            cells.append(show_mean([our["cpu"] / its["cpu"] for our, its in pairs], 3))
            cells += [
                show_mean([our[name] - its[name] for our, its in pairs], 3)
                for name in ("auroc", "ap")
            ]
        rows.append("| " + " | ".join(cells) + " |")
    return [f"{len(runs)} seeds. {' '.join((_finders.__doc__ or '').split())}", "", *rows]


def _noise(data: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = ["| data | true % | estimate % | mean 95 % interval | seeds covered |", "|---" * 5 + "|"]
    for name, runs in data.items():
        noise = [run["noise"] for run in runs]
        low, high = (_mean(100 * each[end] for each in noise) for end in ("low", "high"))
        covered = sum(each["low"] <= each["true"] <= each["high"] for each in noise)
        rows.append(
            f"| {name} | {_mean(100 * each['true'] for each in noise):.1f} "
            f"| {show_mean([100 * each['value'] for each in noise], 1)} | {low:.1f} to {high:.1f} "
            f"| {covered} of {len(noise)} |"
        )
    return [
        "The interval covers sampling error only. Where it misses the true rate, the model's own "
        "errors look like wrong labels, or wrong labels like its own errors.",
        "",
        *rows,
    ]


def _kinds(runs: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{len(runs)} seeds, about {runs[0]['mislabelled']} mislabelled and "
        f"{runs[0]['ambiguous']} ambiguous faces each. Mislabelled: noise replaced the label by "
        "one with a probability below 5 %. Ambiguous: the label was not replaced, and no class has "
        "60 % or more.",
        "",
        f"- AUROC, ambiguous against mislabelled: "
        f"{show_mean([run['ambiguous_auroc'] for run in runs], 3)}",
        f"- harder, {runs[0]['minority']} faces with less than 75 % for every class, and an "
        f"original label that is not the most probable, against mislabelled: "
        f"{show_mean([run['minority_auroc'] for run in runs], 3)}",
        f"- AUROC of doubt, replaced labels against all others: "
        f"{show_mean([run['wrong_label_auroc'] for run in runs], 3)}",
        "",
        "| truly | "
        + " | ".join(f"judged {each.name.lower()} %" for each in KNOWN_VERDICTS)
        + " |",
        "|---" * 4 + "|",
    ]
    for kind in runs[0]["verdicts"]:
        counts = [run["verdicts"][kind] for run in runs]
        cells = [
            show_mean([100 * each[verdict] / max(1, sum(each)) for each in counts], 1)
            for verdict in KNOWN_VERDICTS
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines


def _mean(values: Any) -> float:
    return mean_and_interval(list(values))[0]
