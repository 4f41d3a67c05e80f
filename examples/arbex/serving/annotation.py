"""Draw a picture with the predictions for its faces."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from examples.arbex.plain_text import printable
from examples.arbex.report.figure_style import class_color, figure_file
from examples.arbex.serving.prediction import FacePrediction
from examples.prediction_report import CORRECTED_COLOR, PRIMARY_COLOR

MOST_FACES = 6  # with distributions; boxes are drawn for all


def draw_annotated(path: Path, picture: Tensor, predictions: Sequence[FacePrediction]) -> None:
    """Draw a (3, H, W) picture, a box around each face, and each face's distributions."""
    shown = [each for each in predictions if each.label is not None][:MOST_FACES]
    with figure_file(path, width=4.6 + 2.9 * len(shown), height=4.4) as figure:
        ratios = [1.5] + [1.0] * len(shown)
        image, *panels = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        image.imshow(picture.permute(1, 2, 0).numpy())
        image.set_axis_off()
        for number, each in enumerate(predictions, start=1):
            if each.box is not None:
                _draw_box(image, each, number)
        for number, (panel, each) in enumerate(zip(panels, shown, strict=True), start=1):
            _draw_distributions(panel, each, number)
        if panels:
            figure.legend(
                *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
            )


def _draw_box(axes: Axes, prediction: FacePrediction, number: int) -> None:
    if prediction.box is None:
        return
    left, top, right, bottom = prediction.box
    color = class_color(number - 1)
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=2)
    )
    axes.text(
        *(left, top, f" {number} {printable(prediction.label)} "),
        color="white",
        backgroundcolor=color,
        va="top",
        fontweight="bold",
    )


def _draw_distributions(axes: Axes, prediction: FacePrediction, number: int) -> None:
    primary, corrected = prediction.primary or {}, prediction.corrected or {}
    names = list(corrected)
    positions = range(len(names))
    for offset, probs, color, label in (
        (-0.2, primary, PRIMARY_COLOR, "primary"),
        (0.2, corrected, CORRECTED_COLOR, "corrected"),
    ):
        values = [probs[name] for name in names]
        axes.barh([p + offset for p in positions], values, 0.38, color=color, label=label)
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(positions, [printable(name) for name in names])
    axes.tick_params(axis="y", length=0)
    before, after = printable(prediction.primary_label), printable(prediction.label)
    axes.set_title(
        f"{number}  {before} → {after}" if prediction.changed else f"{number}  {after}", loc="left"
    )
    axes.set_xlabel(
        f"confidence {prediction.confidence:.2f} (primary {prediction.primary_confidence:.2f})\n"
        + "\n".join([prediction.decision, *prediction.doubts])
    )
