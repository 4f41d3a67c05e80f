"""The five loss set-ups of the paper's Fig. 7, trained briefly on the quick recipe's faces.

    python benchmarks/arbex_loss_setups.py

Writes `arbex_loss_setups.json`, `.md` and the figure `arbex_loss_setups.png`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from arbex_runs import RESULTS, run_recipe, save_results
from configuration import Recipe, load_recipe
from figures.training_figures import draw_setups, read_history

from reliability_balance.recipes import get_recipe


def main(
    recipe: Annotated[str, typer.Option(help="Recipe whose losses are varied.")] = "quick",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path(
        "runs/arbex_loss_setups"
    ),
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Train each set-up once and compare the validation accuracy over the epochs."""
    base = load_recipe(recipe, overrides or ())
    histories, rows = {}, []
    for name, setup in setups(base).items():
        root = runs / name.replace(" ", "_")
        test = run_recipe(setup, root)["corrected"]
        histories[name] = read_history(root / "history.csv")
        best = 100 * max(histories[name]["validation_accuracy"])
        rows.append((name, best, test["accuracy"], test["macro_f1"]))
    draw_setups(results / "arbex_loss_setups.png", histories)
    text = "\n".join(
        [
            "# Loss set-ups (Fig. 7 of the paper)",
            "",
            f"One run each, seed {base.seed}: differences of a point or two mean nothing.",
            "",
            "| set-up | best validation accuracy % | test accuracy % | test macro F1 % |",
            "|---|---|---|---|",
            *(f"| {name} | {best:.1f} | {test:.1f} | {f1:.1f} |" for name, best, test, f1 in rows),
        ]
    )
    print(text)
    save_results(results, "arbex_loss_setups", base, {"histories": histories}, text)


def setups(base: Recipe) -> dict[str, Recipe]:
    """The set-ups by name; "ideal" is the recipe as it is."""
    defaults = get_recipe(base.balancer.recipe)
    anchor = defaults.anchor_weight if base.loss.anchor_weight is None else base.loss.anchor_weight
    center = defaults.center_weight if base.loss.center_weight is None else base.loss.center_weight

    def weighted(anchor_factor: float, center_factor: float) -> Recipe:
        loss = replace(
            base.loss, anchor_weight=anchor_factor * anchor, center_weight=center_factor * center
        )
        return replace(base, loss=loss)

    return {
        "ideal": base,
        "anchor loss dominant": weighted(100, 1),
        "no correction by anchors": replace(base, balancer=replace(base.balancer, num_anchors=0)),
        "cross-entropy only": weighted(0, 0),
        "cross-entropy dominant": weighted(0.01, 0.01),
    }


if __name__ == "__main__":
    typer.run(main)
