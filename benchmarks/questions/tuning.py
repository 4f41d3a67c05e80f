"""Would the other methods win if they were tuned, too?

Every setting of `methods/grids.py` is run with three noise types on seeds that no table uses. The
setting with the best mean accuracy is chosen, one for all noise types as for ours, run on the seeds
of `robustness`, and compared with ours there.
"""

from typing import Any, NamedTuple

import pandas as pd

from benchmarks.data.tasks import FIRST_SEED
from benchmarks.methods.grids import GRIDS
from benchmarks.options import RESULTS, Epochs, Seeds
from benchmarks.questions.robustness import Run, judged
from benchmarks.reports.robustness import OURS
from benchmarks.runs import Plan, read_runs
from benchmarks.tables import interval, markdown, page, paired

TUNING_SEEDS = (0, 1)
DATA_NAME = "fashion-10k"
CORRUPTIONS = ("clean", "symmetric-40", "pair-30")


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
    measures = judged(make, DATA_NAME, trial.corruption, trial.seed, trial.epochs)
    return {**trial._asdict(), **measures}


def tuning_means(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the mean accuracy of each method's settings on the tuning seeds; -inf if not run."""
    tried = runs[runs["seed"] < FIRST_SEED]
    means = tried.groupby(["method", "setting"])["accuracy"].mean()
    return {
        method: {setting: means.get((method, setting), float("-inf")) for setting in grid}
        for method, grid in GRIDS.items()
    }


def pick(runs: pd.DataFrame) -> dict[str, str]:
    """Return each method's setting with the best mean accuracy over noise types and seeds."""
    means = tuning_means(runs)
    return {method: max(its, key=lambda setting: its[setting]) for method, its in means.items()}


def authors_setting(method: str) -> str:
    """Return the authors' setting, which is the first of the grid."""
    return next(iter(GRIDS[method]))


def report(runs: pd.DataFrame, robustness: pd.DataFrame) -> str:
    """Format the grids, and the best settings against ours; `robustness` has the runs of that."""
    picks = pick(runs)
    grids = [
        [
            method,
            *(
                f"**{setting}: {mean:.2f}**"
                if setting == picks[method]
                else f"{setting}: {mean:.2f}"
                for setting, mean in means.items()
            ),
        ]
        for method, means in tuning_means(runs).items()
    ]
    heads = [head for name in CORRUPTIONS for head in (name, "ours less it")]
    rows = [against_ours(runs, robustness, *each) for each in picks.items()]
    return page(
        "Tuning the others",
        "By `python -m benchmarks tuning`, on 10,000 images of Fashion-MNIST. Accuracy in percent "
        "at the last epoch. Ours is not tuned here; it was tuned before, longer than the others.",
        "## The grids",
        f"Mean over {', '.join(CORRUPTIONS)} and two seeds that no table uses. The authors' "
        "setting comes first; the best is bold.",
        markdown(["method", "authors'", "", "", ""], grids),
        "## The best setting of each method against ours",
        "On the seeds of `robustness.md`, ± 95 % intervals, differences paired by seed. Where the "
        "authors' setting is the best, the runs are those of `robustness.md`.",
        markdown(["method, setting", *heads], rows),
    )


def against_ours(
    runs: pd.DataFrame, robustness: pd.DataFrame, method: str, setting: str
) -> list[str]:
    """Return a row: accuracy with each noise type, and ours less it."""
    tuned = runs[(runs["seed"] >= FIRST_SEED) & (runs["setting"] == setting)]
    known = robustness[robustness["data"] == DATA_NAME]
    cells = [f"{method}, {setting}"]
    for corruption in CORRUPTIONS:
        ours = known[(known["corruption"] == corruption) & (known["method"] == OURS)]
        source = known if setting == authors_setting(method) else tuned
        theirs = source[(source["corruption"] == corruption) & (source["method"] == method)]
        if theirs.empty:
            cells += ["not run", ""]
        else:
            cells.append(f"{interval(theirs['accuracy']):.1f}")
            cells.append(f"{paired(ours, theirs, 'accuracy'):+.1f}")
    return cells


def plan(seeds: Seeds = 5, epochs: Epochs = 30) -> Plan:
    """Plan the grids, and then the chosen settings on the seeds of the tables."""
    trials = [
        Trial(method, setting, corruption, seed, epochs)
        for seed in TUNING_SEEDS
        for method, grid in GRIDS.items()
        for setting in grid
        for corruption in CORRUPTIONS
    ]

    def chosen(runs: pd.DataFrame) -> list[Trial]:
        return [
            Trial(method, setting, corruption, FIRST_SEED + seed, epochs)
            for seed in range(seeds)
            for method, setting in pick(runs[runs["epochs"] == epochs]).items()
            if setting != authors_setting(method)  # robustness has run that
            for corruption in CORRUPTIONS
        ]

    def of_length(runs: pd.DataFrame) -> str:
        robustness = read_runs(RESULTS / "robustness.jsonl", Run)
        return report(*(each[each["epochs"] == epochs] for each in (runs, robustness)))

    return Plan(Trial, do_trial, trials, of_length, then=chosen)
