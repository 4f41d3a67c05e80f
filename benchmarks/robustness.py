"""Wrong, ambiguous and imbalanced labels: our recipes against other methods.

    python benchmarks/robustness.py --quick          # minutes
    python benchmarks/robustness.py                  # hours; can be stopped and resumed

Every run is one line of `results/robustness.jsonl`; finished runs are skipped. At the end the lines
are rendered to `results/robustness.md` and `.png`; `--render-only` only does that.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from methods import METHODS
from noisy_data import CORRUPTIONS
from resumable import read_lines, run_all
from robustness_report import write_report
from robustness_runs import Run, do_run
from tasks import DATA, FIRST_SEED

RESULTS = Path(__file__).parent / "results"
QUICK_CORRUPTIONS = ["clean", "symmetric-40", "pair-30"]
QUICK_METHODS = ["cross-entropy", "GCE", "ELR", "ours, paper", "ours, robust"]


def main(
    quick: Annotated[bool, typer.Option(help="Three noises, five methods, one seed.")] = False,
    data: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(DATA)}.")] = None,
    corruption: Annotated[list[str] | None, typer.Option(help="See noisy_data.py.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="See methods.py.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    path = results / "robustness.jsonl"
    corruptions = corruption or (QUICK_CORRUPTIONS if quick else list(CORRUPTIONS))
    methods = method or (QUICK_METHODS if quick else list(METHODS))
    for given, known in ((data or [], DATA), (corruptions, CORRUPTIONS), (methods, METHODS)):
        if unknown := [name for name in given if name not in known]:
            raise typer.BadParameter(f"must be of {', '.join(known)}; got {', '.join(unknown)}")
    # Methods innermost: results of a stopped run compare methods on the same seeds.
    runs = [
        Run(data_name, corruption_name, method_name, FIRST_SEED + seed, epochs)
        for data_name in data or (["fashion-10k"] if quick else list(DATA))
        for seed in range(1 if quick else seeds)
        for corruption_name in corruptions
        for method_name in methods
    ]
    if not render_only:
        run_all(do_run, runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
