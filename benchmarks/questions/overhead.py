"""What do balancer and loss cost in time and memory, beside other heads and a ResNet-18?

Every figure is a ratio of two costs, measured alternately in one process on one thread: the median
of CPU time over the rounds, with a 95 % bootstrap interval. Other load on the machine affects both
sides. Parts that are run again replace their figures.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch

from benchmarks.cost.machine import describe_machine
from benchmarks.cost.parts import PARTS, Finding
from benchmarks.options import RESULTS, Quick, RenderOnly, Results, one_of
from benchmarks.runs import publish
from benchmarks.tables import markdown, page
from examples.result_files import save_json


def main(
    part: Annotated[list[str] | None, one_of(PARTS)] = None,
    quick: Quick = False,
    seed: int = 0,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Measure all parts, or the chosen ones."""
    path = results / "overhead.json"
    if not render_only:
        measure_parts({name: PARTS[name] for name in part or PARTS}, path, quick, seed)
    print(publish(path, None, partial(report, question="overhead")))


def measure_parts(
    parts: Mapping[str, Callable[[bool], Iterator[Finding]]], path: Path, quick: bool, seed: int
) -> None:
    """Measure these parts on one thread, and replace their figures in the file."""
    torch.set_num_threads(1)
    settings = {"seed": str(seed), "sizes": "quick" if quick else "full"}
    for name, measure in parts.items():
        torch.manual_seed(seed)
        record(path, name, measure.__doc__ or "", measure(quick), settings)


def record(
    path: Path, name: str, about: str, findings: Iterator[Finding], settings: dict[str, str]
) -> None:
    """Measure a part and replace its figures in the file."""
    parts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    machine = describe_machine() | settings
    rows = []
    for finding in findings:
        print(f"{finding.question}, {finding.setup}: {finding.estimate}", flush=True)
        rows.append(asdict(finding))
    parts[name] = {"about": about.strip(), "machine": machine, "findings": rows}
    save_json(path, {key: parts[key] for key in [*PARTS, *parts] if key in parts})


def report(parts: dict[str, Any], question: str) -> str:
    """Format the figures of each part."""
    heads = ("what", "size", "figure", "95 % interval", "ms", "asked for")
    text = [
        f"`python -m benchmarks {question}`. Each figure is the first cost as a multiple of the "
        "second, median and 95 % interval, both sides in turn: processor time of one thread, or "
        "the clock where a GPU is named. ms: of the first. In bold: above what was asked for."
    ]
    for name, part in parts.items():
        machine = ", ".join(f"{key} {value}" for key, value in part["machine"].items())
        text += [f"## {name}", f"{part['about']} {machine}."]
        text.append(markdown(heads, map(row, part["findings"])))
    return page("Overhead", *text)


def row(finding: dict[str, Any]) -> list[str]:
    """Format one figure."""
    figure, limit = finding["estimate"], finding["limit"]
    value = f"{figure['value']:.3g}"
    if limit is not None and round(figure["value"], 3) > limit:
        value = f"**{value}**"
    milliseconds = finding["milliseconds"]
    return [
        *(finding["question"], finding["setup"], value),
        f"{figure['low']:.3g} to {figure['high']:.3g}",
        "" if milliseconds is None else f"{milliseconds:.3g}",
        "" if limit is None else f"≤ {limit}",
    ]
