"""Figures of predictions: faces with their distributions, reliability, confusion."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from examples.arbex.faces.face_table import FaceTable
from examples.arbex.report.figure_style import MUTED_COLOR, RIGHT_COLOR, WRONG_COLOR, figure_file
from examples.prediction_report import CORRECTED_COLOR, PRIMARY_COLOR, draw_reliability
from reliability_balance import BalancerOutput

BECAME_RIGHT, BECAME_WRONG = "became right", "became wrong"


def draw_faces(path: Path, output: BalancerOutput, table: FaceTable, *, columns: int = 4) -> None:
    """Draw faces with primary and corrected distributions (Fig. 5).

    First faces that the correction made right, most confident first; then some that it made wrong,
    and the least confident ones. The selection is meant to be fair, not flattering.
    """
    chosen = choose_faces(output, table.labels, per_row=columns)
    rows = -(-len(chosen) // columns)
    with figure_file(path, width=2.35 * columns + 0.9, height=4.1 * rows) as figure:
        axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1, 1.15] * rows)
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            picture, bars = axes[2 * row, column], axes[2 * row + 1, column]
            if place >= len(chosen):
                picture.set_axis_off()
                bars.set_axis_off()
                continue
            index, verdict = chosen[place]
            _draw_face(picture, table, output, index, verdict)
            _draw_bars(bars, table, output, index, name_classes=column == 0)
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)


def choose_faces(output: BalancerOutput, labels: Tensor, *, per_row: int) -> list[tuple[int, str]]:
    """Return the index of each face to show, and the effect of the correction on it."""
    was_right = output.primary.argmax(-1) == labels
    is_right = output.corrected.argmax(-1) == labels
    by_confidence = output.confidence.argsort(descending=True, stable=True)

    def pick(condition: Tensor, order: Tensor, count: int, verdict: str) -> list[tuple[int, str]]:
        return [(index, verdict) for index in order[condition[order]][:count].tolist()]

    better = pick(~was_right & is_right, by_confidence, per_row, BECAME_RIGHT)
    worse = pick(was_right & ~is_right, by_confidence, per_row // 2, BECAME_WRONG)
    taken = {index for index, _ in (*better, *worse)}
    left = 2 * per_row - len(taken)
    free = torch.tensor([index not in taken for index in range(len(labels))])
    unsure = pick(free, by_confidence.flip(0), left, "least confident")
    return better + worse + unsure


def draw_reliability_and_risk(path: Path, output: BalancerOutput, labels: Tensor) -> None:
    """Draw the reliability diagram and the risk-coverage curve."""
    with figure_file(path, width=8.6, height=3.9) as figure:
        left, right = figure.subplots(1, 2)
        draw_reliability(left, output, labels)
        left.set_title("Reliability: the diagonal is calibrated")
        for name, probs, color in (
            ("primary", output.primary, PRIMARY_COLOR),
            ("corrected", output.corrected, CORRECTED_COLOR),
        ):
            top, predicted = probs.max(-1)
            wrong = (predicted != labels)[top.argsort(descending=True, stable=True)].double()
            kept = torch.arange(1, len(wrong) + 1)
            risk = 100 * wrong.cumsum(0) / kept
            few = len(wrong) // 50  # too few for a stable rate
            coverage = (100 * kept / len(wrong))[few:].numpy()
            right.plot(coverage, risk[few:].numpy(), color=color, label=name)
        right.set(
            xlim=(0, 100), xlabel="coverage, most confident first (%)", ylabel="error rate (%)"
        )
        right.set_ylim(bottom=0)
        right.set_title("Risk over coverage: lower is better")
        right.legend()


def draw_confusion(path: Path, confusion: list[list[int]], class_names: tuple[str, ...]) -> None:
    """Draw the confusion matrix of the corrected predictions: counts, shaded by share of row."""
    counts = torch.tensor(confusion)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    side = 0.62 * len(class_names) + 1.9
    with figure_file(path, width=side, height=side) as figure:
        axes = figure.subplots()
        axes.imshow(shares.numpy(), cmap="GnBu", vmin=0, vmax=1)
        for row in range(len(counts)):
            for column in range(len(counts)):
                color = "white" if shares[row, column] > 0.6 else "#1f2937"
                axes.text(
                    *(column, row, str(int(counts[row, column]))),
                    ha="center",
                    va="center",
                    color=color,
                    fontweight="bold" if row == column else "normal",
                )
        positions = range(len(class_names))
        axes.set_xticks(positions, class_names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(positions, class_names)
        axes.set(xlabel="corrected prediction", ylabel="label")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)


def _draw_face(
    axes: Axes, table: FaceTable, output: BalancerOutput, index: int, verdict: str
) -> None:
    before = table.class_names[int(output.primary[index].argmax())]
    after = table.class_names[int(output.corrected[index].argmax())]
    axes.imshow(table.images[index].permute(1, 2, 0).numpy())
    axes.set_axis_off()
    color = {BECAME_RIGHT: RIGHT_COLOR, BECAME_WRONG: WRONG_COLOR}.get(verdict, MUTED_COLOR)
    axes.set_title(f"{before} → {after}" if before != after else after, color=color)
    axes.text(
        *(0.5, -0.03, f"{verdict}; label {table.class_names[int(table.labels[index])]}"),
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=8,
        color=MUTED_COLOR,
    )


def _draw_bars(
    axes: Axes, table: FaceTable, output: BalancerOutput, index: int, *, name_classes: bool
) -> None:
    positions = np.arange(len(table.class_names))
    for offset, probs, color, label in (
        (-0.2, output.primary[index], PRIMARY_COLOR, "primary (PD)"),
        (0.2, output.corrected[index], CORRECTED_COLOR, "corrected (CD)"),
    ):
        axes.barh(positions + offset, probs.numpy(), 0.38, color=color, label=label)
    if table.distributions is not None:
        axes.plot(
            *(table.distributions[index].numpy(), positions, "D"),
            markersize=3.5,
            color="#1f2937",
            label="true distribution" if table.distributions_are_true else "votes",
        )
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], ylim=(len(positions) - 0.5, -0.5))
    axes.set_xticklabels(["0", ".5", "1"])
    names = table.class_names if name_classes else [""] * len(positions)
    axes.set_yticks(positions, names)
    axes.tick_params(axis="y", length=0)
    row = int(table.labels[index])
    axes.axhspan(row - 0.45, row + 0.45, color=RIGHT_COLOR, alpha=0.13, linewidth=0)
