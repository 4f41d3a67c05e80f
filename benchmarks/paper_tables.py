"""The set-ups of the paper's Tables 1-4 on redistributable data, with the paper's figures.

    python benchmarks/paper_tables.py --quick        # K = 0 and 8 only in Tables 2 and 3
    python benchmarks/paper_tables.py --table 2 --seeds 2

The paper's data cannot be redistributed, so absolute figures cannot agree; we test the trend of
each claim. Every run is one line of `results/paper_tables.jsonl`; finished runs are skipped.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from paper_report import write_report
from paper_setups import COMPARED, TABLES, Setup, do_setup
from resumable import read_lines, run_all
from tasks import FIRST_SEED

RESULTS = Path(__file__).parent / "results"


def main(
    quick: Annotated[bool, typer.Option(help="Only the cells that the report compares.")] = False,
    data: Annotated[list[str] | None, typer.Option(help="Fashion-MNIST and faces.")] = None,
    table: Annotated[list[int] | None, typer.Option(min=1, max=4, help="1 to 4; all.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    path = results / "paper_tables.jsonl"
    # Sets, since Table 1 is also the first column of Tables 2 and 3.
    setups: dict[Setup, None] = {
        setup._replace(data=name, seed=FIRST_SEED + seed, epochs=epochs): None
        for name in data or ("fashion-10k", "faces-7k")
        for seed in range(seeds)
        for number in table or TABLES
        for setup in TABLES[number]
        if not quick or number in (1, 4) or setup.num_anchors in COMPARED
    }
    if not render_only:
        run_all(do_setup, list(setups), path, workers)
    print(write_report(read_lines(path, epochs=epochs), results))


if __name__ == "__main__":
    typer.run(main)
