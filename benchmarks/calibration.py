"""Compare the calibration of our predictions with that of cross-entropy.

    python benchmarks/calibration.py          # 30 short trainings; can be stopped and resumed

Every run is one line of `results/calibration.jsonl`; finished runs are skipped. At the end the
lines are rendered to `results/calibration.md`; `--render-only` only does that.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from calibration_report import write_report
from calibration_runs import do_run
from resumable import read_lines, run_all
from robustness_runs import Run
from tasks import FIRST_SEED

RESULTS = Path(__file__).parent / "results"
CORRUPTIONS = ["clean", "symmetric-40", "pair-30"]
METHODS = ["cross-entropy", "ours, robust"]


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    path = results / "calibration.jsonl"
    runs = [
        Run("fashion-10k", corruption, method, FIRST_SEED + seed, epochs)
        for seed in range(seeds)
        for corruption in CORRUPTIONS
        for method in METHODS
    ]
    if not render_only:
        run_all(do_run, runs, path, workers)
    print(write_report(read_lines(path, epochs=epochs), results))


if __name__ == "__main__":
    typer.run(main)
