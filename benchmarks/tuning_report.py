"""Pick each method's best setting, and render the picks beside the untuned and beside ours."""

from pathlib import Path
from typing import Any

from measures import mean_and_interval, show_mean
from result_files import save_text
from tasks import FIRST_SEED
from tuning_grids import GRIDS

DATA_NAME = "fashion-10k"
CORRUPTIONS = ("clean", "symmetric-40", "pair-30")
OURS = "ours, robust"

Lines = list[dict[str, Any]]


def pick(lines: Lines) -> dict[str, str]:
    """The setting of the best mean accuracy over the noises and the seeds of the tuning."""
    picks = {}
    for method, grid in GRIDS.items():
        means = {setting: _tuning_mean(lines, method, setting) for setting in grid}
        picks[method] = max(means, key=lambda setting: means[setting])
    return picks


def authors_setting(method: str) -> str:
    """The first of the grid."""
    return next(iter(GRIDS[method]))


def write_report(lines: Lines, robustness: Lines, results: Path) -> str:
    """Write `tuning.md` and return it."""
    picks = pick(lines)
    grids = []
    for method, grid in GRIDS.items():
        shown = {
            setting: f"{setting}: {_tuning_mean(lines, method, setting):.2f}" for setting in grid
        }
        shown[picks[method]] = f"**{shown[picks[method]]}**"
        grids.append("| " + " | ".join([method, *shown.values()]) + " |")
    heads = [f"{name} | ours less it" for name in CORRUPTIONS]
    parts = [
        "# Tuning the others",
        "",
        "By `python benchmarks/tuning.py`, on 10,000 images of Fashion-MNIST. Accuracy in percent "
        "at the last epoch. Ours is not tuned here: it was, for longer than the others are.",
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
        "## The best of each beside ours",
        "",
        "On the seeds of `robustness.md`, ± 95 % intervals, differences paired by seed. Where the "
        "authors' setting is the best, the runs are those of `robustness.md`.",
        "",
        "| method, setting | " + " | ".join(heads) + " |",
        "|---" * (1 + 2 * len(CORRUPTIONS)) + "|",
        *(_row(lines, robustness, method, setting) for method, setting in picks.items()),
    ]
    text = "\n".join(parts) + "\n"
    save_text(results / "tuning.md", text)
    return text


def _tuning_mean(lines: Lines, method: str, setting: str) -> float:
    found = [
        line["accuracy"]
        for line in lines
        if line["seed"] < FIRST_SEED and (line["method"], line["setting"]) == (method, setting)
    ]
    return mean_and_interval(found)[0] if found else float("-inf")


def _row(lines: Lines, robustness: Lines, method: str, setting: str) -> str:
    cells = [f"{method}, {setting}"]
    is_authors = setting == authors_setting(method)
    for corruption in CORRUPTIONS:
        case = {"data": DATA_NAME, "corruption": corruption}
        ours = _by_seed(robustness, {**case, "method": OURS})
        theirs = (
            _by_seed(robustness, {**case, "method": method})
            if is_authors
            else _by_seed(lines, {"corruption": corruption, "method": method, "setting": setting})
        )
        ahead = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        cells += [
            show_mean(list(theirs.values()), 1) if theirs else "not run",
            show_mean(ahead, 1, "+") if ahead else "",
        ]
    return "| " + " | ".join(cells) + " |"


def _by_seed(lines: Lines, wanted: dict[str, str]) -> dict[int, float]:
    """Accuracy of these runs on the tables' seeds."""
    return {
        line["seed"]: line["accuracy"]
        for line in lines
        if line["seed"] >= FIRST_SEED and wanted.items() <= line.items()
    }
