"""Everything there is to see of a trained model: scores, figures, and one page with both."""

import json
from dataclasses import asdict
from pathlib import Path

from configuration import dump_recipe
from evaluation import (
    Evaluation,
    describe_changes,
    describe_clustering,
    evaluate,
    format_evaluation,
    in_classes_of,
    predict_table,
    score_labels,
)
from faces.face_table import FaceTable
from figures.prediction_figures import draw_confusion, draw_faces, draw_reliability_and_risk
from figures.training_figures import draw_anchors, draw_embedding, draw_training, read_history
from html_page import cards, folded, heading, paragraph, picture, save_page, table
from model_bundle import ModelBundle
from result_files import save_json, save_text

from reliability_balance import BalancerOutput

HIGHER_IS_BETTER = ("accuracy", "mean_class_accuracy", "macro_precision", "macro_f1")
CAPTIONS = {
    "faces": "Fig. 5 of the paper: primary (PD) and corrected (CD) distributions. First the faces "
    "that the correction made right, surest first; then some that it made wrong, and those that "
    "it is least sure of. The label is shaded green.",
    "reliability": "Left: accuracy of the predictions with a given highest probability. Right: "
    "error that is left when only the surest predictions are kept; its mean is AURC.",
    "confusion": "Corrected predictions: counts, shaded by their share of the row.",
    "embedding": "Fig. 6 of the paper: t-SNE of the test embeddings, and scores of how the "
    "classes stand apart in the embedding itself.",
    "anchors": "Anchors among the test embeddings, on the plane in which these vary most.",
    "training": "Accuracy and loss over the epochs. Training accuracy is against the given "
    "labels, wrong ones included.",
}


def report_on(
    bundle: ModelBundle, faces: FaceTable, folder: Path, *, history: Path | None = None
) -> Evaluation:
    """Evaluate a model, and write ``metrics.json``, ``metrics.txt``, figures and ``report.html``.

    Args:
        bundle: the model.
        faces: to judge it on; classes are matched by name.
        folder: where all goes.
        history: the training's CSV file, for its curves; None for none.

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
    save_text(folder / "metrics.txt", "\n".join([format_evaluation(evaluation), *notes]) + "\n")
    figures = _draw(output, known, evaluation, folder / "figures", history)
    page = _page(bundle, evaluation, notes, figures)
    save_page(folder / "report.html", f"ARBEx on {evaluation.dataset}", page)
    return evaluation


def _draw(
    output: BalancerOutput,
    faces: FaceTable,
    evaluation: Evaluation,
    folder: Path,
    history: Path | None,
) -> dict[str, Path]:
    """Draw what there is to draw, and tell where each figure lies."""
    figures = {name: folder / f"{name}.png" for name in CAPTIONS}
    names, labels = faces.class_names, faces.labels
    draw_faces(figures["faces"], output, faces)
    draw_reliability_and_risk(figures["reliability"], output, labels)
    draw_confusion(figures["confusion"], evaluation.confusion, names)
    if len(labels) < 2:  # a point alone makes no plane
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


def _page(
    bundle: ModelBundle,
    evaluation: Evaluation,
    notes: list[str],
    figures: dict[str, Path],
) -> list[str]:
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
        headline.append((f"{evaluation.attainable_accuracy:.1f} %", "accuracy that is attainable"))
    sections = [
        f"<h1>ARBEx on {evaluation.dataset}</h1>",
        paragraph(
            f"{evaluation.num_faces} test faces, {len(bundle.class_names)} classes; encoder "
            f"{recipe.encoder.name}, balancer recipe “{recipe.balancer.recipe}”, "
            f"{recipe.balancer.num_anchors} anchors a class, seed {recipe.seed}.",
            muted=True,
        ),
        cards(headline),
        *(paragraph(note) for note in notes),
        heading("Scores"),
        _score_table(evaluation),
        paragraph(f"{describe_changes(evaluation.changes)}."),
        heading("Faces"),
        picture(figures["faces"], CAPTIONS["faces"]),
        heading("Confidence"),
        picture(figures["reliability"], CAPTIONS["reliability"]),
        heading("Classes"),
        table(
            ["class", "faces", "precision %", "recall %", "F1 %"],
            [
                [
                    *(each.name, str(each.support)),
                    *(f"{value:.1f}" for value in (each.precision, each.recall, each.f1)),
                ]
                for each in evaluation.classes
            ],
        ),
        picture(figures["confusion"], CAPTIONS["confusion"]),
    ]
    if "embedding" in figures:
        sections += [heading("Embedding"), picture(figures["embedding"], CAPTIONS["embedding"])]
    if evaluation.clustering is not None:
        sections.append(paragraph(f"{describe_clustering(evaluation.clustering)}."))
    if "anchors" in figures:
        sections.append(picture(figures["anchors"], CAPTIONS["anchors"]))
    if "training" in figures:
        sections += [heading("Training"), picture(figures["training"], CAPTIONS["training"])]
    return [
        *sections,
        heading("Configuration"),
        folded("The whole recipe", dump_recipe(recipe)),
        folded("Versions", json.dumps(bundle.versions, indent=2)),
    ]


def _score_table(evaluation: Evaluation) -> str:
    rows: list[list[str]] = []
    best: list[int | None] = []
    for name, label in score_labels(evaluation):
        before, after = (asdict(s)[name] for s in (evaluation.primary, evaluation.corrected))
        rows.append([label, f"{before:.3f}", f"{after:.3f}"])
        better_after = (after > before) == (name in HIGHER_IS_BETTER)
        best.append(None if before == after else 2 if better_after else 1)
    return table(["score", "primary", "corrected"], rows, best)
