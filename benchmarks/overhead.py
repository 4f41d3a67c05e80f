"""Overhead of the library, and its distance from the machine's limits.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --part encoder --part limits

Every figure is a ratio of two costs, measured alternately in one process on one thread: the median
of CPU time over the rounds, with a 95 % bootstrap interval. Other load on the machine affects both
sides. Parts that are run again replace their figures in `results/overhead.json`, from which
`results/overhead.md` is rendered.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import typer
from machine import describe_machine
from overhead_parts import PARTS, Finding

from examples.result_files import save_json, save_text

RESULTS = Path(__file__).parent / "results"


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}.")] = None,
    quick: Annotated[bool, typer.Option(help="Small sizes, as a smoke test.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure all parts, or the chosen ones."""
    torch.set_num_threads(1)
    names = part or list(PARTS)
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{unknown} must be of {list(PARTS)}", param_hint="--part")
    settings = {"seed": str(seed), "sizes": "quick" if quick else "full"}
    for name in names:
        torch.manual_seed(seed)
        measure = PARTS[name]
        record(results / "overhead.json", name, measure.__doc__ or "", measure(quick), settings)


def record(
    path: Path, name: str, about: str, findings: Iterator[Finding], settings: dict[str, str]
) -> None:
    """Measure a part and replace its figures in JSON and Markdown."""
    report: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    machine = describe_machine() | settings
    rows = []
    for finding in findings:
        print(f"{finding.question}, {finding.setup}: {finding.estimate}", flush=True)
        rows.append(asdict(finding))
    report[name] = {"about": about.strip(), "machine": machine, "findings": rows}
    ordered = {key: report[key] for key in [*PARTS, *report] if key in report}
    save_json(path, ordered)
    save_text(path.with_suffix(".md"), render(ordered, path.stem))


def render(report: dict[str, Any], command: str) -> str:
    """Format the figures as Markdown."""
    lines = [
        "# Overhead",
        "",
        f"`python benchmarks/{command}.py`. Each figure is the first cost as a multiple of the "
        "second, median and 95 % interval, both sides in turn: processor time of one thread, or "
        "the clock where a GPU is named. ms: of the first. In bold: above what was asked for.",
    ]
    for name, part in report.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{part['about']} "
            + ", ".join(f"{key} {value}" for key, value in part["machine"].items())
            + ".",
            "",
            "| what | size | figure | 95 % interval | ms | asked for |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(finding) for finding in part["findings"]]
    return "\n".join(lines) + "\n"


def _row(finding: dict[str, Any]) -> str:
    figure, limit = finding["estimate"], finding["limit"]
    value = f"{figure['value']:.3g}"
    if limit is not None and round(figure["value"], 3) > limit:
        value = f"**{value}**"
    milliseconds = finding["milliseconds"]
    return (
        f"| {finding['question']} | {finding['setup']} | {value} "
        f"| {figure['low']:.3g} to {figure['high']:.3g} "
        f"| {'' if milliseconds is None else f'{milliseconds:.3g}'} "
        f"| {'' if limit is None else f'≤ {limit}'} |"
    )


if __name__ == "__main__":
    typer.run(main)
