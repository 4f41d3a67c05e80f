"""Report on a trained model: scores, figures, and one page with both."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from examples.arbex.configuration import dump_recipe
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.plain_text import in_utf_8, printable
from examples.arbex.report.evaluation import (
    Evaluation,
    describe_changes,
    describe_clustering,
    evaluate,
    format_evaluation,
    in_classes_of,
    predict_table,
    score_labels,
)
from examples.arbex.report.html_page import png_url, save_page
from examples.arbex.report.prediction_figures import (
    draw_confusion,
    draw_faces,
    draw_reliability_and_risk,
)
from examples.arbex.report.training_figures import (
    draw_anchors,
    draw_embedding,
    draw_training,
    read_history,
)
from examples.result_files import save_json, save_text
from reliability_balance import BalancerOutput

HIGHER_IS_BETTER = ("accuracy", "mean_class_accuracy", "macro_precision", "macro_f1")
CAPTIONS = {
    "faces": "Fig. 5 of the paper: primary (PD) and corrected (CD) distributions. First faces that "
    "the correction made right, most confident first; then some that it made wrong, and the least "
    "confident ones. The label is shaded green.",
    "reliability": "Left: accuracy against the highest probability. Right: error rate of the most "
    "confident predictions against coverage; its mean is AURC.",
    "confusion": "Corrected predictions: counts, shaded by their share of the row.",
    "embedding": "Fig. 6 of the paper: t-SNE of the test embeddings, with clustering scores of the "
    "embeddings themselves.",
    "anchors": "Anchors and test embeddings, projected on the first two principal components of "
    "the embeddings.",
    "training": "Accuracy and loss over the epochs. Training accuracy is measured against the "
    "given labels, including wrong ones.",
}


def report_on(
    bundle: ModelBundle, faces: FaceTable, folder: Path, *, history: Path | None = None
) -> Evaluation:
    """Evaluate a model; write ``metrics.json``, ``metrics.txt``, figures and ``report.html``.

    Args:
        bundle: the model.
        faces: test faces; classes are matched by name.
        folder: folder of the results.
        history: the training's CSV file, for its curves. None: no curves.

    Raises:
        ValueError: if there are no faces, or none of a class that the model knows.
    """
    data = bundle.recipe.data
    known, unknown = in_classes_of(faces, bundle.class_names)
    output = predict_table(bundle.model, known, image_size=data.image_size, workers=data.workers)
    evaluation = evaluate(output, known)
    notes = []
    if unknown:
        left_out = len(faces) - len(known)
        notes.append(f"{left_out} faces of unknown classes left out: {', '.join(unknown)}")
    save_json(
        folder / "metrics.json",
        {**asdict(evaluation), "unknown_classes": unknown, "versions": bundle.versions},
    )
    text = "\n".join([format_evaluation(evaluation), *notes]) + "\n"
    save_text(folder / "metrics.txt", in_utf_8(text))
    figures = _draw(output, known, evaluation, folder / "figures", history)
    values = _page_values(bundle, evaluation, figures)
    save_page(folder / "report.html", "report.html", notes=notes, **values)
    return evaluation


def _draw(
    output: BalancerOutput,
    faces: FaceTable,
    evaluation: Evaluation,
    folder: Path,
    history: Path | None,
) -> dict[str, Path]:
    """Draw the available figures and return their paths."""
    figures = {name: folder / f"{name}.png" for name in CAPTIONS}
    faces = replace(faces, class_names=tuple(map(printable, faces.class_names)))
    names, labels = faces.class_names, faces.labels
    draw_faces(figures["faces"], output, faces)
    draw_reliability_and_risk(figures["reliability"], output, labels)
    draw_confusion(figures["confusion"], evaluation.confusion, names)
    if len(labels) < 2:  # one point has no projection
        del figures["embedding"]
    else:
        draw_embedding(figures["embedding"], output, labels, names, evaluation.clustering)
    if output.anchors is None or len(labels) < 2:
        del figures["anchors"]
    else:
        draw_anchors(figures["anchors"], output, labels, names)
    if history is None:
        del figures["training"]
    else:
        draw_training(figures["training"], read_history(history))
    return figures


def _page_values(
    bundle: ModelBundle, evaluation: Evaluation, figures: dict[str, Path]
) -> dict[str, object]:
    """Return the values that the page shows."""
    primary, corrected = evaluation.primary, evaluation.corrected
    recipe = bundle.recipe
    headline = [
        (f"{corrected.accuracy:.1f} %", "accuracy, corrected"),
        (f"{corrected.accuracy - primary.accuracy:+.1f}", "points over the primary branch"),
        (f"{corrected.macro_f1:.1f} %", "macro F1, corrected"),
        (f"{corrected.ece:.1f} %", "calibration error (ECE)"),
    ]
    if corrected.kl is not None:
        headline.append((f"{corrected.kl:.3f}", "KL to the label distribution (nats)"))
    if evaluation.attainable_accuracy is not None:
        headline.append((f"{evaluation.attainable_accuracy:.1f} %", "attainable accuracy"))
    clustering = evaluation.clustering
    scores, best = _scores(evaluation)
    return {
        "title": f"ARBEx on {evaluation.dataset}",
        "summary": (
            f"{evaluation.num_faces} test faces, {len(bundle.class_names)} classes; encoder "
            f"{recipe.encoder.name}, balancer recipe “{recipe.base}”, "
            f"{recipe.method.num_anchors} anchors per class, seed {recipe.seed}."
        ),
        "headline": headline,
        "scores": scores,
        "best": best,
        "changes": describe_changes(evaluation.changes),
        "classes": [
            [
                *(each.name, each.support),
                *(f"{value:.1f}" for value in (each.precision, each.recall, each.f1)),
            ]
            for each in evaluation.classes
        ],
        "clustering": None if clustering is None else describe_clustering(clustering),
        "figures": {
            name: {"caption": CAPTIONS[name], "source": png_url(path.read_bytes())}
            for name, path in figures.items()
        },
        "recipe": dump_recipe(recipe),
        "versions": json.dumps(bundle.versions, indent=2),
    }


def _scores(evaluation: Evaluation) -> tuple[list[list[str]], list[int | None]]:
    """Return the rows of the table, and for each row the better column."""
    rows: list[list[str]] = []
    best: list[int | None] = []
    for name, label in score_labels(evaluation):
        before, after = (asdict(s)[name] for s in (evaluation.primary, evaluation.corrected))
        rows.append([label, f"{before:.3f}", f"{after:.3f}"])
        better_after = (after > before) == (name in HIGHER_IS_BETTER)
        best.append(None if before == after else 2 if better_after else 1)
    return rows, best
