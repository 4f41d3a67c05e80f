"""Table 5 of the paper, if you have the data: how accurate is a recipe beside the paper's column?

Trains a recipe of the application on one data set, once, and compares the test accuracy of its
corrected and primary predictions with the paper's figures. The folder needs the layout of the
application's reader. A stopped run is resumed.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.application import how, provenance, run_recipe
from benchmarks.options import RESULTS, Overrides, RenderOnly, Results
from benchmarks.runs import publish
from benchmarks.tables import markdown, page
from examples.arbex.configuration import load_config, override_config

MODELS = ("SCN", "RAN", "RUL", "EfficientFace", "POSTER", "POSTER++", "ARBEx")
# Accuracy in percent, in the order of MODELS; None is a dash in the paper.
PAPER: dict[str, tuple[float | None, ...]] = {
    "aff-wild2": (60.55, 59.81, 62.37, 62.21, 68.83, 69.18, 72.48),
    "raf-db": (87.03, 86.9, 88.98, 88.36, 92.05, 92.21, 92.47),
    "jaffe": (86.33, 88.67, 92.33, 92.33, 96.67, 96.67, 96.67),
    "fer-plus": (85.97, 83.63, None, None, 91.62, 92.28, 93.09),
    "ferg-db": (90.46, 90.22, 92.35, 92.16, 96.87, 96.36, 98.18),
}
RUNS = Path("runs/paper_table5")


def _known(dataset: str) -> str:
    if dataset not in PAPER:
        raise typer.BadParameter(f"must be one of {', '.join(PAPER)}; got {dataset}")
    return dataset


Dataset = Annotated[str, typer.Argument(callback=_known, help=f"One of {', '.join(PAPER)}.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]


def run_path(runs: Path, dataset: str, recipe: str) -> Path:
    """Return the folder of one run."""
    return runs / f"{dataset}-{recipe}"


def main(
    dataset: Dataset,
    root: Annotated[Path, typer.Argument(exists=True, help="Its folder.")],
    recipe: Annotated[str, typer.Option(help="Recipe to train.")] = "paper",
    overrides: Overrides = None,
    runs: Runs = RUNS,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Train and test on one data set, and print the result with the paper's column of Table 5."""
    content = None
    if not render_only:
        named = load_config(recipe, [f"data.dataset={dataset}", f"data.root={root}"])
        chosen = override_config(named, overrides or [])
        content = {**how(chosen), **run_recipe(chosen, run_path(runs, dataset, recipe))}

    def report(content: dict[str, Any]) -> str:
        return format_column(dataset, recipe, content)

    print(publish(results / f"paper_table5_{dataset}_{recipe}.json", content, report))


def format_column(dataset: str, recipe: str, content: dict[str, Any]) -> str:
    """Format the column of the data set, with the paper's figures and ours."""
    rows = [
        [model, "-" if accuracy is None else f"{accuracy:.2f}"]
        for model, accuracy in zip(MODELS, PAPER[dataset], strict=True)
    ]
    corrected, primary = (content[name]["accuracy"] for name in ("corrected", "primary"))
    rows.append([f"**recipe {recipe}, corrected**", f"**{corrected:.2f}**"])
    rows.append([f"recipe {recipe}, primary branch alone", f"{primary:.2f}"])
    return page(
        f"Table 5 of the paper, {dataset}",
        "One run each; the upper rows are quoted from the paper.",
        markdown(["model", "accuracy %"], rows),
        provenance(content),
    )
