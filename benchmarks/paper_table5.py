"""Table 5 of the paper, if you have the data: train a recipe and compare with the paper's column.

    python benchmarks/paper_table5.py raf-db /data/raf-db
    python benchmarks/paper_table5.py jaffe /data/jaffe --recipe robust --set data.image_size=112

The folder needs the layout of the reader; check it with `python -m examples.arbex audit`. A
stopped run is resumed. Writes `paper_table5_DATASET_RECIPE.json` and `.md`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from arbex_runs import RESULTS, run_recipe, save_results

from examples.arbex.configuration import RunConfig, load_config, override_config

MODELS = ("SCN", "RAN", "RUL", "EfficientFace", "POSTER", "POSTER++", "ARBEx")
# Accuracy in percent, in the order of MODELS; None is a dash in the paper.
PAPER: dict[str, tuple[float | None, ...]] = {
    "aff-wild2": (60.55, 59.81, 62.37, 62.21, 68.83, 69.18, 72.48),
    "raf-db": (87.03, 86.9, 88.98, 88.36, 92.05, 92.21, 92.47),
    "jaffe": (86.33, 88.67, 92.33, 92.33, 96.67, 96.67, 96.67),
    "fer-plus": (85.97, 83.63, None, None, 91.62, 92.28, 93.09),
    "ferg-db": (90.46, 90.22, 92.35, 92.16, 96.87, 96.36, 98.18),
}


def main(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(PAPER)}.")],
    root: Annotated[Path, typer.Argument(exists=True, help="Its folder.")],
    recipe: Annotated[str, typer.Option(help="Recipe to train.")] = "paper",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/paper_table5"),
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Train and test on one data set, and print the result with the paper's column of Table 5."""
    if dataset not in PAPER:
        raise typer.BadParameter(f"must be one of {', '.join(PAPER)}; got {dataset}")
    chosen = choose(dataset, root, recipe, overrides or [])
    metrics = run_recipe(chosen, runs / f"{dataset}-{recipe}")
    text = format_markdown(dataset, recipe, metrics)
    print(text)
    save_results(results, f"paper_table5_{dataset}_{recipe}", chosen, metrics, text)


def choose(dataset: str, root: Path, recipe: str, overrides: list[str]) -> RunConfig:
    """Return the recipe for this data set."""
    named = load_config(recipe, [f"data.dataset={dataset}", f"data.root={root}"])
    return override_config(named, overrides)


def format_markdown(dataset: str, recipe: str, metrics: dict[str, Any]) -> str:
    """Format the column of the data set, with the paper's figures and ours."""
    rows = [
        f"| {model} | {'-' if accuracy is None else f'{accuracy:.2f}'} |"
        for model, accuracy in zip(MODELS, PAPER[dataset], strict=True)
    ]
    ours = (
        f"| **recipe {recipe}, corrected** | **{metrics['corrected']['accuracy']:.2f}** |",
        f"| recipe {recipe}, primary branch alone | {metrics['primary']['accuracy']:.2f} |",
    )
    lines = (
        f"# Table 5 of the paper, {dataset}",
        "",
        "One run each; the upper rows are quoted from the paper.",
        "",
        "| model | accuracy % |",
        "|---|---|",
        *rows,
        *ours,
    )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
