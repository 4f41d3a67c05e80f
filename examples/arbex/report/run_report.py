"""Report on a trained model: scores, figures, and one page with both."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from examples.arbex.configuration import dump_config
from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable
from examples.arbex.model_bundle import ModelBundle, load_bundle, save_bundle
from examples.arbex.plain_text import in_utf_8, printable, say
from examples.arbex.report.evaluation import (
    Evaluation,
    describe_changes,
    describe_clustering,
    evaluate,
    in_classes_of,
    predict_table,
    score_labels,
)
from examples.arbex.report.html_page import png_url, save_page
from examples.arbex.report.measuring import (
    find_problems,
    fit_companions,
    judge_calibration,
    judge_doubts,
    judge_selection,
    rank_doubtful,
)
from examples.arbex.report.prediction_figures import (
    draw_confusion,
    draw_faces,
    draw_reliability_and_risk,
)
from examples.arbex.report.results import Baseline, DoubtfulLabels, RunResults
from examples.arbex.report.text import format_results
from examples.arbex.report.training_figures import (
    draw_anchors,
    draw_embedding,
    draw_training,
    read_history,
)
from examples.arbex.training.run_folder import RunFolder
from examples.result_files import save_json, save_text
from reliability_balance import BalancerOutput, RobustLoss
from reliability_balance.diagnosis import Finding
from reliability_balance.labels import save_csv

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


def report_on_run(
    folder: RunFolder,
    faces: FaceTable,
    criterion: RobustLoss,
    baseline: Baseline | None = None,
) -> RunResults | None:
    """Finish a training: save companions with the model, list doubtful labels, and report.

    Args:
        folder: of the run, whose best model is judged.
        faces: all faces of the run.
        criterion: the loss that the model was trained with.
        baseline: scores to compare with, if known.

    Returns:
        The results, or None if there are no test faces.
    """
    bundle = load_bundle(folder.model)
    try:
        companions = fit_companions(bundle, faces)
        save_bundle(folder.model, bundle.model, bundle.config, bundle.class_names, companions)
        bundle = replace(bundle, companions=companions)
    except ValueError as error:
        say(f"without calibration: {error}")
    train, test = faces.subset(TRAIN), faces.subset(TEST)
    doubtful = None
    if bundle.config.recipe.doubts_labels:
        doubtful = list_doubtful(criterion, train, folder.root)
    if not len(test):
        return None
    return report_on(
        bundle,
        test,
        folder.root,
        history=folder.history,
        baseline=baseline,
        doubtful=doubtful,
        findings=find_problems(bundle, faces.subset(VALIDATION)),
    )


def list_doubtful(criterion: RobustLoss, train: FaceTable, folder: Path) -> DoubtfulLabels:
    """Write ``doubtful_labels.csv``, all training labels with the most doubtful first.

    Raises:
        ValueError: if the criterion does not doubt labels.
    """
    ranking = rank_doubtful(criterion)
    path = folder / "doubtful_labels.csv"
    save_csv(ranking, path, class_names=train.class_names, sample_names=train.names)
    return judge_doubts(ranking, criterion, train)


def report_on(
    bundle: ModelBundle,
    faces: FaceTable,
    folder: Path,
    *,
    history: Path | None = None,
    baseline: Baseline | None = None,
    doubtful: DoubtfulLabels | None = None,
    findings: tuple[Finding, ...] = (),
) -> RunResults:
    """Evaluate a model; write ``metrics.json``, ``metrics.txt``, figures and ``report.html``.

    Args:
        bundle: the model.
        faces: test faces; classes are matched by name.
        folder: folder of the results.
        history: the training's CSV file, for its curves. None: no curves.
        baseline: scores to compare with, if known.
        doubtful: what was found of the training labels, if known.
        findings: of a diagnosis.

    Raises:
        ValueError: if there are no faces, or none of a class that the model knows.
    """
    data = bundle.config.data
    known, unknown = in_classes_of(faces, bundle.class_names)
    output = predict_table(bundle.model, known, image_size=data.image_size, workers=data.workers)
    evaluation = evaluate(output, known)
    calibration = selective = None
    if bundle.companions is not None:
        calibration = judge_calibration(bundle.companions, output, known)
        selective = judge_selection(bundle.companions, output, known.labels)
    results = RunResults(evaluation, baseline, doubtful, calibration, selective, findings)
    notes = []
    if unknown:
        left_out = len(faces) - len(known)
        notes.append(f"{left_out} faces of unknown classes left out: {', '.join(unknown)}")
    plain = asdict(results)
    plain |= {"unknown_classes": unknown, "versions": bundle.versions}
    save_json(folder / "metrics.json", {**plain.pop("evaluation"), **plain})
    text = "\n".join([format_results(results), *notes]) + "\n"
    save_text(folder / "metrics.txt", in_utf_8(text))
    figures = _draw(output, known, evaluation, folder / "figures", history)
    values = _page_values(bundle, evaluation, figures)
    save_page(folder / "report.html", "report.html", notes=notes, **values)
    return results


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
    config = bundle.config
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
            f"{config.encoder.name}, balancer recipe “{config.base}”, "
            f"{config.recipe.num_anchors} anchors per class, seed {config.seed}."
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
        "recipe": dump_config(config),
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
