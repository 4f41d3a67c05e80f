"""Measure parts of a question about costs, and keep the figures of the others."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost.machine import describe_machine
from benchmarks.cost.parts import Finding
from examples.result_files import save_json


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
    save_json(path, parts)
