"""Figures 5 to 7 of the paper, in numbers: what does the correction do to confidences?

Takes the runs that `paper_table5` has trained. For each recipe it counts the probabilities of the
predicted classes before and after the correction (Fig. 5), scores and draws the embedding of the
test faces (Fig. 6), and draws the training (Fig. 7). No picture of a face is kept.
"""

import json
from math import nan
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.application import how, provenance
from benchmarks.options import RESULTS, RenderOnly, Results
from benchmarks.questions.paper_table5 import RUNS, Dataset, Runs, run_path
from benchmarks.runs import ResultsError, publish
from benchmarks.tables import markdown, page
from examples.arbex.faces.face_table import TEST
from examples.arbex.model_bundle import load_bundle
from examples.arbex.report.evaluation import predict_table
from examples.arbex.report.figure_style import LIGHT, figure_file
from examples.arbex.report.training_figures import draw_embedding, draw_setups, read_history
from examples.arbex.run_data import load_faces
from examples.arbex.training.run_folder import RunFolder, config_of
from reliability_balance import BalancerOutput

BINS = 20  # of the highest probability
KINDS = ("right", "wrong")
BRANCHES = ("primary", "corrected")
RECIPES = ("paper", "robust")
CLUSTERING = ("davies_bouldin", "calinski_harabasz")


def main(
    dataset: Dataset,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Recipe of a run; repeatable. None: paper, robust.")
    ] = None,
    runs: Runs = RUNS,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Write numbers and figures of each recipe's run."""
    file = results / f"paper_figures_{dataset}.json"

    def figure(name: str) -> Path:
        return file.with_name(f"{file.stem}_{name}.png")

    content = None
    if not render_only:
        found, histories = {}, {}
        for name in recipe or RECIPES:
            folder = RunFolder(run_path(runs, dataset, name))
            metrics = folder.root / "metrics.json"
            if not metrics.is_file():
                raise ResultsError(
                    f"{folder.root} must hold a finished run; train it with `python -m benchmarks "
                    f"paper_table5 {dataset} FOLDER --recipe {name}`"
                )
            config = config_of(folder)
            test = load_faces(config.data, used=TEST).subset(TEST)
            size = config.data.image_size
            output = predict_table(load_bundle(folder.model).model, test, image_size=size)
            draw_embedding(
                figure(f"embedding_{name}"), output.embedding, test.labels, test.class_names
            )
            histories[name] = read_history(folder.history)
            found[name] = {
                **how(config),
                "metrics": json.loads(metrics.read_text(encoding="utf-8")),
                "confidences": count_confidences(output, test.labels),
                "history": histories[name],
            }
        draw_setups(figure("training"), histories)
        content = {"recipes": found}

    def report(content: dict[str, Any]) -> str:
        draw_confidences(
            figure("confidence"),
            {name: each["confidences"] for name, each in content["recipes"].items()},
        )
        return format_figures(dataset, content["recipes"])

    print(publish(file, content, report))


def count_confidences(output: BalancerOutput, labels: Tensor) -> dict[str, Any]:
    """Count the highest probabilities in `BINS` equal bins, by branch, of right and wrong faces.

    Shape:
        - labels: (N,) int64.
    """
    content: dict[str, Any] = {}
    tops = {}
    for branch in BRANCHES:
        probs: Tensor = getattr(output, branch)
        tops[branch], predicted = probs.max(-1)
        right = predicted == labels
        content[branch] = {
            kind: {
                "counts": torch.histc(tops[branch][rows], BINS, 0.0, 1.0).long().tolist(),
                "mean": float(tops[branch][rows].mean()) if bool(rows.any()) else None,
            }
            for kind, rows in zip(KINDS, (right, ~right), strict=True)
        }
    raised = tops["corrected"] > tops["primary"]
    right = output.corrected.argmax(-1) == labels
    content["raised"] = {  # share of the faces whose highest probability the correction raises
        kind: float(raised[rows].float().mean()) if bool(rows.any()) else None
        for kind, rows in zip(KINDS, (right, ~right), strict=True)
    }
    return content


def draw_confidences(path: Path, recipes: dict[str, Any]) -> None:
    """Draw the highest probabilities before and after the correction, of right and wrong faces."""
    edges = [100 * each / BINS for each in range(BINS + 1)]
    with figure_file(path, width=7.4, height=2.6 * len(recipes)) as figure:
        rows = figure.subplots(len(recipes), 2, squeeze=False, sharex=True, sharey="row")
        for axes_of_recipe, (name, confidences) in zip(rows, recipes.items(), strict=True):
            for axes, kind in zip(axes_of_recipe, KINDS, strict=True):
                for branch, color in zip(BRANCHES, (LIGHT["other"], LIGHT["ours"]), strict=True):
                    counts = confidences[branch][kind]["counts"]
                    label = branch if axes is rows[0, 0] else None
                    axes.stairs(counts, edges, color=color, linewidth=1.6, label=label)
                axes.set_title(f"{name}: {kind} predictions")
            axes_of_recipe[0].set_ylabel("test faces")
        for axes in rows[-1]:
            axes.set(xlim=(0, 100), xlabel="highest probability (%)")
        figure.legend(loc="outside lower center", ncols=2)


def format_figures(dataset: str, recipes: dict[str, Any]) -> str:
    """Format the numbers behind the figures; a part for each figure."""
    confidence, embedding, training = [], [], []
    for name, found in recipes.items():
        confidences, metrics, history = (
            found[part] for part in ("confidences", "metrics", "history")
        )
        for kind in KINDS:
            means = [_percent(confidences[branch][kind]["mean"]) for branch in BRANCHES]
            confidence.append([name, kind, *means, _percent(confidences["raised"][kind])])
        clustering = metrics["clustering"] or {}  # None with too few faces
        embedding.append([name, *(f"{clustering.get(each, nan):.2f}" for each in CLUSTERING)])
        accuracies = history["validation_accuracy"]
        training.append(
            [
                name,
                str(len(accuracies)),
                *(_percent(each) for each in (accuracies[0], max(accuracies), accuracies[-1])),
                *(f"{metrics[branch]['accuracy']:.1f}" for branch in BRANCHES),
            ]
        )
    heads = ["recipe", "predictions", "primary %", "corrected %", "raised by the correction %"]
    return page(
        f"Figures 5 to 7 of the paper, {dataset}",
        "One run of each recipe, as in Table 5. The paper shows single faces, and no averages.",
        "**Fig. 5**: highest probability, mean over the test faces whose prediction of that branch "
        "is right or wrong, and the share of those whose highest probability the correction "
        "raises. The paper's claim is that right ones rise and wrong ones fall.",
        markdown(heads, confidence),
        "**Fig. 6**: separation of the classes in the embedding.",
        markdown(["recipe", "Davies-Bouldin (low)", "Calinski-Harabasz (high)"], embedding),
        "**Fig. 7**: validation accuracy over the training, and test accuracy.",
        markdown(
            [
                *("recipe", "epochs", "first epoch %", "best %", "last %"),
                *("test, primary %", "test, corrected %"),
            ],
            training,
        ),
        *(f"{name}: {_size(found)}" for name, found in recipes.items()),
        provenance(next(iter(recipes.values()))),
    )


def _size(found: dict[str, Any]) -> str:
    recipe, epochs = found["recipe"], len(found["history"]["epoch"])
    data, per_class = recipe["data"], recipe["data"]["per_class"]
    faces = "all faces" if per_class is None else f"{per_class} faces a class"
    return f"{recipe['encoder']['name']}, {data['image_size']} pixels, {epochs} epochs of {faces}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
