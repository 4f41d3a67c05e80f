"""Find wrong labels without cross-validation: ours against cleanlab, and wrong against ambiguous.

    python benchmarks/doubtful_labels.py                   # all; can be stopped and resumed
    python benchmarks/doubtful_labels.py --data faces      # only wrong against ambiguous faces

Every run is one line of `results/doubtful_labels.jsonl`; finished runs are skipped. Both methods
train in one process, one after the other. CPU time is compared, since wall time depends on other
load. Renders `results/doubtful_labels.md`.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from doubtful_labels_report import write_report
from doubtful_labels_runs import FACES, Run, do_run
from resumable import read_lines, run_all
from tasks import FIRST_SEED

RESULTS = Path(__file__).parent / "results"
DATA = ("symmetric-40", "pair-30", "clean", FACES)


def main(
    data: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(DATA)}.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    if unknown := [name for name in data or [] if name not in DATA]:
        raise typer.BadParameter(f"must be of {', '.join(DATA)}; got {', '.join(unknown)}")
    path = results / "doubtful_labels.jsonl"
    runs = [Run(name, FIRST_SEED + seed) for seed in range(seeds) for name in data or DATA]
    if not render_only:
        run_all(do_run, runs, path, workers)
    print(write_report(read_lines(path), results))


if __name__ == "__main__":
    typer.run(main)
