"""Report on a trained model: scores, figures, and one page with both."""

from dataclasses import asdict
from pathlib import Path

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.model_bundle import ModelBundle
from examples.arbex.plain_text import in_utf_8
from examples.arbex.report.evaluation import (
    Evaluation,
    evaluate,
    format_evaluation,
    in_classes_of,
    predict_table,
)
from examples.arbex.report.page import write_page
from examples.arbex.report.results import RunResults
from examples.result_files import save_json, save_text


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
    write_page(
        folder / "report.html",
        RunResults(evaluation),
        bundle=bundle,
        test=known,
        output=output,
        history=history,
        notes=notes,
    )
    return evaluation
