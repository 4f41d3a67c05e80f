"""Choose each method's best setting, and compare it with the untuned one and with ours."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from measures import accuracy_by_seed, paired_differences, show_mean
from robustness_report import OURS
from tasks import FIRST_SEED
from tuning_grids import GRIDS

from examples.result_files import save_text

DATA_NAME = "fashion-10k"
CORRUPTIONS = ("clean", "symmetric-40", "pair-30")

Lines = list[dict[str, Any]]


def pick(lines: Lines) -> dict[str, str]:
    """Return each method's setting with the best mean accuracy over noise types and seeds."""
    return {method: _best(means) for method, means in _tuning_means(lines).items()}


def authors_setting(method: str) -> str:
    """Return the authors' setting, which is the first of the grid."""
    return next(iter(GRIDS[method]))


def write_report(lines: Lines, robustness: Lines, results: Path) -> str:
    """Write `tuning.md` and return it."""
    tuning_means = _tuning_means(lines)
    grids = []
    for method, means in tuning_means.items():
        shown = {setting: f"{setting}: {mean:.2f}" for setting, mean in means.items()}
        shown[_best(means)] = f"**{shown[_best(means)]}**"
        grids.append("| " + " | ".join([method, *shown.values()]) + " |")
    tables = [line for line in lines if line["seed"] >= FIRST_SEED]
    heads = [f"{name} | ours less it" for name in CORRUPTIONS]
    parts = [
        "# Tuning the others",
        "",
        "By `python benchmarks/tuning.py`, on 10,000 images of Fashion-MNIST. Accuracy in percent "
        "at the last epoch. Ours is not tuned here; it was tuned before, longer than the others.",
        "",
        "## The grids",
        "",
        f"Mean over {', '.join(CORRUPTIONS)} and two seeds that no table uses. The authors' "
        "setting comes first; the best is bold.",
        "",
        "| method | authors' | | | |",
        "|---" * 5 + "|",
        *grids,
        "",
        "## The best setting of each method against ours",
        "",
        "On the seeds of `robustness.md`, ± 95 % intervals, differences paired by seed. Where the "
        "authors' setting is the best, the runs are those of `robustness.md`.",
        "",
        "| method, setting | " + " | ".join(heads) + " |",
        "|---" * (1 + 2 * len(CORRUPTIONS)) + "|",
        *(_row(tables, robustness, method, _best(means)) for method, means in tuning_means.items()),
    ]
    text = "\n".join(parts) + "\n"
    save_text(results / "tuning.md", text)
    return text


def _tuning_means(lines: Lines) -> dict[str, dict[str, float]]:
    """Return the mean accuracy of each method's settings on the tuning seeds."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        if line["seed"] < FIRST_SEED:
            found[line["method"], line["setting"]].append(line["accuracy"])
    return {
        method: {setting: fmean(found.get((method, setting), [float("-inf")])) for setting in grid}
        for method, grid in GRIDS.items()
    }


def _best(means: dict[str, float]) -> str:
    return max(means, key=lambda setting: means[setting])


def _row(tables: Lines, robustness: Lines, method: str, setting: str) -> str:
    cells = [f"{method}, {setting}"]
    is_authors = setting == authors_setting(method)
    for corruption in CORRUPTIONS:
        case = {"data": DATA_NAME, "corruption": corruption}
        ours = accuracy_by_seed(robustness, {**case, "method": OURS})
        theirs = (
            accuracy_by_seed(robustness, {**case, "method": method})
            if is_authors
            else accuracy_by_seed(
                tables, {"corruption": corruption, "method": method, "setting": setting}
            )
        )
        ahead = list(paired_differences(ours, theirs).values())
        cells += [
            show_mean(list(theirs.values()), 1) if theirs else "not run",
            show_mean(ahead, 1, "+") if ahead else "",
        ]
    return "| " + " | ".join(cells) + " |"
