"""The report as one self-contained page: a verdict first, then sections that fold."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from examples.arbex.configuration import dump_config
from examples.arbex.faces.face_table import FaceTable
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.plain_text import printable
from examples.arbex.report import judgement
from examples.arbex.report.cards import OTHER, headline
from examples.arbex.report.example_faces import PIXELS, example_faces
from examples.arbex.report.figures import draw_figures
from examples.arbex.report.html_page import picture_url, save_page, svg_url
from examples.arbex.report.results import DoubtfulFace, RunResults
from examples.arbex.report.scoring import SCORES, FaceScores
from reliability_balance import BalancerOutput

GALLERY = 21  # doubtful faces with their pictures
MOST_STEPS = 5  # to look at next
COVERAGES = (50, 80, 90, 100)


def write_page(
    path: Path,
    results: RunResults,
    *,
    bundle: ModelBundle,
    test: FaceTable,
    output: BalancerOutput,
    train: FaceTable | None = None,
    history: Path | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page, and its figures into ``figures/`` beside it.

    Args:
        path: of the page.
        results: the numbers of the run; a part that is None has no section.
        bundle: the model.
        test: the N test faces, in the model's classes.
        output: predictions of the test faces.
        train: training faces, for the pictures of doubtful labels. None: no pictures.
        history: the training's CSV file, for its curves. None: no curves.
        notes: sentences to show at the top.
    """
    evaluation, calibration = results.evaluation, results.calibration
    test = replace(test, class_names=tuple(map(printable, test.class_names)))
    figures = draw_figures(path.parent / "figures", results, test, output, history)
    steps = judgement.next_steps(results, f"python -m examples.arbex review {path.parent}")
    known = [each for each in evaluation.classes if each.support]
    columns = {"primary": evaluation.primary, "corrected": evaluation.corrected}
    before = after = None
    if calibration is not None:
        before = judgement.calibration_of(calibration.before.ece, calibration.bins_before)
        after = judgement.calibration_of(calibration.after.ece, calibration.bins_after)
        if calibration.is_fitted:
            columns["calibrated"] = calibration.after
    if results.baseline is not None:
        columns[OTHER] = results.baseline.scores
    save_page(
        path,
        "report.html",
        results=results,
        config=bundle.config,
        num_train=None if train is None else len(train),
        notes=notes,
        verdict=judgement.overall(results),
        cards=headline(results),
        next_steps=list(steps)[:MOST_STEPS],
        figures={name: svg_url(file.read_bytes()) for name, file in figures.items()},
        gallery=_gallery(results, train),
        before=before,
        after=after,
        risks=_risks(results),
        names=test.class_names,
        confusion=_confusion(results),
        most_confused=_most_confused(results),
        best=max(known, key=lambda each: each.recall),
        worst=min(known, key=lambda each: each.recall),
        columns=list(columns),
        scores=_rows(SCORES, list(columns.values())),
        calibration_scores=_rows(("ece", "nll", "brier", "accuracy"), list(columns.values())[1:3]),
        meanings={each.label: each.meaning for each in SCORES.values()},
        examples=example_faces(output, test),
        truth="true distribution" if test.distributions_are_true else "votes",
        recipe=dump_config(bundle.config),
        versions=json.dumps(bundle.versions, indent=2),
    )


def _gallery(results: RunResults, train: FaceTable | None) -> list[tuple[DoubtfulFace, str]]:
    """Return the faces whose labels are called wrong, the most doubtful first, with pictures."""
    doubtful = results.doubtful
    if doubtful is None or doubtful.caution or train is None:
        return []
    wrong = [each for each in doubtful.first if each.suggested != each.given]
    return [(each, picture_url(train.images[each.row], PIXELS)) for each in wrong[:GALLERY]]


def _rows(fields: Iterable[str], columns: Sequence[FaceScores]) -> list[list[str]]:
    """Return label and values of each score that is known."""
    return [
        [SCORES[field].label, *(SCORES[field].show(getattr(each, field)) for each in columns)]
        for field in fields
        if getattr(columns[0], field) is not None
    ]


def _risks(results: RunResults) -> dict[int, float]:
    """Return error rates by coverage."""
    curve = results.selective.curve if results.selective is not None else []
    return {
        share: min(curve, key=lambda each: abs(each.coverage - share)).risk
        for share in (COVERAGES if curve else ())
    }


def _confusion(results: RunResults) -> list[list[tuple[int, int]]]:
    """Return the confusion matrix, each cell with its share of the row in percent."""
    rows = results.evaluation.confusion
    return [[(count, round(100 * count / max(sum(row), 1))) for count in row] for row in rows]


def _most_confused(results: RunResults) -> tuple[int, int] | None:
    """Return the class that is most often taken for another one, and that one; None: no error."""
    wrong = torch.tensor(results.evaluation.confusion).fill_diagonal_(0)
    place = int(wrong.argmax())
    return divmod(place, len(wrong)) if int(wrong.sum()) else None
