"""Runs of the ARBEx application for benchmarks: resumed or skipped, then summarised."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
EXAMPLES = HERE.parent / "examples"
sys.path.insert(0, str(HERE.parent))

from measures import mean_and_interval  # noqa: E402

from examples.arbex.configuration import RunConfig, as_plain  # noqa: E402
from examples.arbex.faces.face_table import TEST  # noqa: E402
from examples.arbex.model_bundle import load_bundle, versions  # noqa: E402
from examples.arbex.report.run_report import report_on  # noqa: E402
from examples.arbex.run_data import load_faces  # noqa: E402
from examples.arbex.training.fitting import fit  # noqa: E402
from examples.arbex.training.run_folder import RunFolder, config_of  # noqa: E402
from examples.result_files import save_json, save_text  # noqa: E402


@dataclass(frozen=True)
class Interval:
    """Mean over the seeds with its 95 % interval by Student's t; NaN limits for a single seed."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float]) -> Interval:
    """Return mean and interval of independent values."""
    mean, half = mean_and_interval(list(values))
    return Interval(mean, mean - half, mean + half)


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


def save_results(
    folder: Path, name: str, recipe: RunConfig, results: dict[str, Any], text: str
) -> None:
    """Write JSON and Markdown, with all that is needed to reproduce them.

    The user's folders are left out.
    """
    given = ["FOLDER" if Path(each).is_dir() else each for each in sys.argv[1:]]
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    content = {
        "command": command,
        "machine": machine,
        "versions": versions(),
        "recipe": as_plain(replace(recipe, data=replace(recipe.data, root=None))),
        **results,
    }
    save_json(folder / f"{name}.json", content)
    used = ", ".join(f"{package} {number}" for package, number in versions().items())
    save_text(folder / f"{name}.md", f"{text}\n\n`{command}`; {machine}; {used}.\n")


def intervals_as_plain(intervals: dict[str, Interval]) -> dict[str, dict[str, float]]:
    """Convert intervals for JSON."""
    return {name: asdict(each) for name, each in intervals.items()}
