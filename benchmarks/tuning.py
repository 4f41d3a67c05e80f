"""Would the other methods win if they were tuned? A grid search for each, then the tables' seeds.

    python benchmarks/tuning.py            # about an hour on two cores; can be stopped and resumed

First every setting of `tuning_grids.py` is run with three noise types, on seeds that no table uses.
For each method, the setting with the best mean accuracy is chosen, one for all noise types, as for
ours. Then these are run on the seeds of `robustness.py` and compared with ours.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import typer
from resumable import read_lines, run_all
from robustness_runs import train_and_judge
from tasks import FIRST_SEED
from tuning_grids import GRIDS
from tuning_report import CORRUPTIONS, DATA_NAME, authors_setting, pick, write_report

RESULTS = Path(__file__).parent / "results"
TUNING_SEEDS = (0, 1)


class Trial(NamedTuple):
    """One setting of one method with one noise type."""

    method: str
    setting: str
    corruption: str
    seed: int
    epochs: int


def do_trial(trial: Trial) -> dict[str, Any]:
    """Train it and evaluate the last epoch."""
    make = GRIDS[trial.method][trial.setting]
    judged = train_and_judge(make, DATA_NAME, trial.corruption, trial.seed, trial.epochs)
    return {**trial._asdict(), **judged}


def main(
    seeds: Annotated[int, typer.Option(min=1, help="For the chosen settings.")] = 5,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    render_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
) -> None:
    """Run what is missing and render all results."""
    path = results / "tuning.jsonl"
    if not render_only:
        trials = [
            Trial(method, setting, corruption, seed, epochs)
            for seed in TUNING_SEEDS
            for method, grid in GRIDS.items()
            for setting in grid
            for corruption in CORRUPTIONS
        ]
        run_all(do_trial, trials, path, workers)
        picks = [
            Trial(method, setting, corruption, FIRST_SEED + seed, epochs)
            for seed in range(seeds)
            for method, setting in pick(read_lines(path, epochs=epochs)).items()
            if setting != authors_setting(method)  # robustness.py has run that
            for corruption in CORRUPTIONS
        ]
        run_all(do_trial, picks, path, workers)
    ours = read_lines(RESULTS / "robustness.jsonl", epochs=epochs)
    print(write_report(read_lines(path, epochs=epochs), ours, results))


if __name__ == "__main__":
    typer.run(main)
