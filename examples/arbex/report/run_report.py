"""Report on a trained model: scores, figures, and one page with both."""

from dataclasses import asdict, replace
from pathlib import Path

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable
from examples.arbex.model_bundle import ModelBundle, load_bundle, save_bundle
from examples.arbex.plain_text import in_utf_8, say
from examples.arbex.report.evaluation import evaluate, in_classes_of, predict_table
from examples.arbex.report.measuring import (
    find_problems,
    fit_post_hoc,
    judge_calibration,
    judge_doubts,
    judge_selection,
    paired_lead,
    rank_doubtful,
)
from examples.arbex.report.page import write_page
from examples.arbex.report.results import Baseline, BaselineRun, DoubtfulLabels, RunResults
from examples.arbex.report.text import format_results
from examples.arbex.training.run_folder import RunFolder
from examples.result_files import save_json, save_text
from reliability_balance import RobustLoss
from reliability_balance.diagnosis import Finding
from reliability_balance.labels import save_csv


def report_on_run(
    folder: RunFolder,
    faces: FaceTable,
    criterion: RobustLoss,
    baseline: BaselineRun | None = None,
) -> RunResults | None:
    """Finish a training: fit and save what follows it, list doubtful labels, and report.

    Args:
        folder: of the run, whose model is judged.
        faces: all faces of the run.
        criterion: the loss that the model was trained with.
        baseline: to compare with, on the same test faces.

    Returns:
        The results, or None if there are no test faces.
    """
    bundle = load_bundle(folder.model)
    try:
        post_hoc = fit_post_hoc(bundle, faces)
        save_bundle(folder.model, bundle.model, bundle.config, bundle.class_names, post_hoc)
        bundle = replace(bundle, post_hoc=post_hoc)
    except ValueError as error:
        say(f"without calibration: {error}")
    train, test = faces.subset(TRAIN), faces.subset(TEST)
    doubtful = None
    if bundle.config.recipe.refurbishes_labels:
        doubtful = list_doubtful(criterion, train, folder.root)
    if not len(test):
        return None
    return report_on(
        bundle,
        test,
        folder.root,
        history=folder.history,
        train=train,
        baseline=baseline,
        doubtful=doubtful,
        findings=find_problems(bundle, faces.subset(VALIDATION)),
    )


def list_doubtful(criterion: RobustLoss, train: FaceTable, folder: Path) -> DoubtfulLabels:
    """Write ``doubtful_labels.csv``, all training labels with the most doubtful first.

    Raises:
        ValueError: if the criterion does not doubt labels.
    """
    ranking = rank_doubtful(criterion, train)
    save_csv(ranking, folder / "doubtful_labels.csv")
    return judge_doubts(ranking, criterion, train)


def report_on(
    bundle: ModelBundle,
    faces: FaceTable,
    folder: Path,
    *,
    history: Path | None = None,
    train: FaceTable | None = None,
    baseline: BaselineRun | None = None,
    doubtful: DoubtfulLabels | None = None,
    findings: tuple[Finding, ...] = (),
) -> RunResults:
    """Evaluate a model; write ``metrics.json``, ``metrics.txt``, figures and ``report.html``.

    Args:
        bundle: the model.
        faces: test faces; classes are matched by name.
        folder: folder of the results.
        history: the training's CSV file, for its curves. None: no curves.
        train: training faces, for the pictures of doubtful labels. None: no pictures.
        baseline: to compare with, on the same faces, if known.
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
    if bundle.post_hoc is not None:
        calibration = judge_calibration(bundle.post_hoc, output, known)
        selective = judge_selection(bundle.post_hoc, output, known.labels)
    compared = lead = None
    if baseline is not None:
        if baseline.right is not None:
            lead = paired_lead(output.corrected.argmax(-1) == known.labels, baseline.right)
        compared = Baseline(baseline.scores, lead, baseline.origin)
    results = RunResults(evaluation, compared, doubtful, calibration, selective, findings)
    notes = []
    if unknown:
        left_out = len(faces) - len(known)
        notes.append(f"{left_out} faces of unknown classes left out: {', '.join(unknown)}")
    plain = asdict(results)
    plain |= {"unknown_classes": unknown, "versions": bundle.versions}
    save_json(folder / "metrics.json", {**plain.pop("evaluation"), **plain})
    text = "\n".join([format_results(results), *notes]) + "\n"
    save_text(folder / "metrics.txt", in_utf_8(text))
    write_page(
        folder / "report.html",
        results,
        bundle=bundle,
        test=known,
        output=output,
        train=train,
        history=history,
        notes=notes,
    )
    return results
