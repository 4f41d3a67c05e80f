"""Runs of the ARBEx application for benchmarks: resumed or skipped, then summarised."""

import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.arbex.configuration import RunConfig, as_plain
from examples.arbex.faces.face_table import TEST
from examples.arbex.model_bundle import load_bundle, versions
from examples.arbex.report.run_report import report_on
from examples.arbex.run_data import load_faces
from examples.arbex.training.fitting import fit
from examples.arbex.training.run_folder import RunFolder, config_of


def with_seed(recipe: RunConfig, seed: int) -> RunConfig:
    """Return the recipe with other weights, batches, faces and noise."""
    rendered = {**recipe.data.rendered, "seed": seed}
    return replace(recipe, seed=seed, data=replace(recipe.data, rendered=rendered))


def run_recipe(recipe: RunConfig, root: Path) -> dict[str, Any]:
    """Train and evaluate, or resume a run; return the metrics.

    Raises:
        ValueError: if the folder holds a run of another recipe.
    """
    folder = RunFolder(root)
    if folder.recipe.exists() and config_of(folder) != recipe:
        raise ValueError(f"{root} holds a run of another recipe: choose another --runs")
    metrics = root / "metrics.json"
    if not metrics.exists():
        print(f"{root}", flush=True)
        faces = load_faces(recipe.data)
        fit(recipe, faces, folder)
        report_on(load_bundle(root), faces.subset(TEST), root, history=folder.history)
    content: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return content


def how(recipe: RunConfig) -> dict[str, Any]:
    """Return all that is needed to reproduce results, without the user's folders."""
    given = [
        "FOLDER" if Path(each).is_absolute() or Path(each).is_dir() else each
        for each in sys.argv[1:]
    ]
    return {
        "command": " ".join(["python -m benchmarks", *given]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": versions(),
        "recipe": as_plain(replace(recipe, data=replace(recipe.data, root=None))),
    }


def provenance(content: dict[str, Any]) -> str:
    """Format how results came about, in one line."""
    used = ", ".join(f"{package} {number}" for package, number in content["versions"].items())
    return f"`{content['command']}`; {content['machine']}; {used}."
