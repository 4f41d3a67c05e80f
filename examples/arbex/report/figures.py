"""The figures of a report."""

from pathlib import Path

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.report.prediction_figures import draw_reliability, draw_risk
from examples.arbex.report.results import RunResults
from examples.arbex.report.training_figures import (
    draw_accuracy,
    draw_anchors,
    draw_embedding,
    draw_loss,
    read_history,
)
from reliability_balance import BalancerOutput


def draw_figures(
    folder: Path,
    results: RunResults,
    faces: FaceTable,
    output: BalancerOutput,
    history: Path | None,
) -> dict[str, Path]:
    """Draw the figures that the run has data for, and return their files by name."""
    figures: dict[str, Path] = {}

    def path_of(name: str) -> Path:
        return figures.setdefault(name, folder / f"{name}.svg")

    calibration, selective = results.calibration, results.selective
    if calibration is not None:
        bins = {"as trained": calibration.bins_before}
        if calibration.is_fitted:
            bins["calibrated"] = calibration.bins_after
        draw_reliability(path_of("reliability"), bins)
    if selective is not None and selective.curve:
        draw_risk(path_of("risk"), selective)
    if history is not None:
        epochs = read_history(history)
        draw_accuracy(path_of("accuracy"), epochs)
        draw_loss(path_of("loss"), epochs)
    if len(faces) > 1:  # one point has no projection
        embedding, labels, names = output.embedding, faces.labels, faces.class_names
        draw_embedding(path_of("embedding"), embedding, labels, names)
        if output.anchors is not None:
            draw_anchors(path_of("anchors"), embedding, output.anchors, labels, names)
    return figures
