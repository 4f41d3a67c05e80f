"""Compare primary and corrected predictions on a test set: scores, table, figure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from examples.result_files import open_result
from reliability_balance import BalancerOutput

NUM_BINS = 15
PRIMARY_COLOR, CORRECTED_COLOR = "#b0b7c3", "#1f6f8b"


@dataclass(frozen=True)
class Scores:
    """Accuracies, macro F1 and expected calibration error in percent; NLL in nats.

    Class means are over the classes that occur in the labels. Predictions of other classes count as
    errors of these.
    """

    accuracy: float
    mean_class_accuracy: float
    macro_f1: float
    nll: float
    ece: float


def score(probs: Tensor, log_probs: Tensor, labels: Tensor) -> Scores:
    """Score (N, C) predictions against (N,) labels."""
    num_classes, present = probs.shape[-1], labels.unique()

    def mean_of(metric: Callable[..., Tensor]) -> float:
        return 100 * float(metric(probs, labels, num_classes, average="none")[present].mean())

    return Scores(
        accuracy=100 * float(multiclass_accuracy(probs, labels, num_classes, average="micro")),
        mean_class_accuracy=mean_of(multiclass_accuracy),
        macro_f1=mean_of(multiclass_f1_score),
        nll=float(torch.nn.functional.nll_loss(log_probs, labels)),
        ece=100 * float(multiclass_calibration_error(probs, labels, num_classes, NUM_BINS)),
    )


def format_table(primary: Scores, corrected: Scores) -> str:
    """Format both side by side, for a terminal."""
    units = {"nll": "nats"}
    lines = [f"{'':24}{'primary':>10}{'corrected':>11}"]
    for name, before in asdict(primary).items():
        after = asdict(corrected)[name]
        label = f"{name.replace('_', ' ')} ({units.get(name, '%')})"
        lines.append(f"{label:24}{before:10.3f}{after:11.3f}")
    return "\n".join(lines)


def save_picture(
    path: Path,
    output: BalancerOutput,
    images: Tensor,
    labels: Tensor,
    class_names: list[str],
    *,
    title: str,
    num_examples: int = 6,
) -> None:
    """Draw the reliability diagram and changed predictions with their distributions (Fig. 5).

    Args:
        path: a PNG file.
        output: predictions of the whole test set.
        images: (N, channels, H, W) uint8.
        labels: (N,) true classes.
        class_names: C names.
        title: one line above the figure.
        num_examples: number of changed predictions to show, the most confident first.
    """
    with (
        mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}),
        mpl.rc_context({"text.parse_math": False}),  # class names may have a $
    ):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        figure.suptitle(title, fontsize=10)
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 2.1])[0]
        draw_reliability(left.subplots(), output, labels)
        by_confidence = output.confidence.where(output.changed, -1.0).argsort(descending=True)
        shown = by_confidence[: min(num_examples, int(output.changed.sum()))]
        right.suptitle("Changed predictions with the highest confidence", fontsize=9)
        if len(shown):
            axes = right.subplots(2, len(shown), squeeze=False, height_ratios=[1, 1.3])
            for column, index in enumerate(shown.tolist()):
                _draw_example(
                    axes[0, column], axes[1, column], output, images, labels, class_names, index
                )
            axes[1, 0].set_yticks(range(len(class_names)), class_names)
            axes[1, 0].legend(loc="lower right", fontsize=6, frameon=False)
        with open_result(path) as file:
            figure.savefig(file, dpi=130, format="png")


def draw_reliability(axes: Axes, output: BalancerOutput, labels: Tensor) -> None:
    """Draw accuracy over confidence, for primary and corrected; the diagonal is calibrated."""
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for name, probs, color in (
        ("primary", output.primary, PRIMARY_COLOR),
        ("corrected", output.corrected, CORRECTED_COLOR),
    ):
        top, predicted = probs.max(-1)
        right = (predicted == labels).to(top.dtype)
        bins = (top * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        filled = [index for index in range(NUM_BINS) if bool((bins == index).any())]
        x = [float(top[bins == index].mean()) for index in filled]
        y = [float(right[bins == index].mean()) for index in filled]
        axes.plot(x, y, marker="o", markersize=3, color=color, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="highest probability", ylabel="accuracy")
    axes.set_title("Reliability", fontsize=9)
    axes.legend(frameon=False, loc="upper left")


def _draw_example(
    picture: Axes,
    bars: Axes,
    output: BalancerOutput,
    images: Tensor,
    labels: Tensor,
    class_names: list[str],
    index: int,
) -> None:
    image = images[index].permute(1, 2, 0)
    picture.imshow(image.squeeze(-1).numpy(), cmap="gray")
    picture.set_axis_off()
    before = class_names[int(output.primary[index].argmax())]
    after = class_names[int(output.corrected[index].argmax())]
    truth = class_names[int(labels[index])]
    verdict = {after: "right now", before: "was right"}.get(truth, f"is {truth}")
    picture.set_title(f"{before}\n→ {after}\n({verdict})", fontsize=7)
    positions = np.arange(len(class_names))
    primary, corrected = output.primary[index].numpy(), output.corrected[index].numpy()
    bars.barh(positions + 0.2, primary, 0.4, color=PRIMARY_COLOR, label="primary")
    bars.barh(positions - 0.2, corrected, 0.4, color=CORRECTED_COLOR, label="corrected")
    bars.set(xlim=(0, 1), xticks=[0, 1], yticks=[])
    bars.invert_yaxis()
