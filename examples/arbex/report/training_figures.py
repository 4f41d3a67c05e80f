"""Figures of training: the embedding, the anchors, and the training curves."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from examples.arbex.report.figure_style import HEIGHT, LIGHT, WIDTH, class_color, figure_file
from reliability_balance import functional as RF

MOST_POINTS = 2000  # more would overlap and take long
History = Mapping[str, Sequence[float]]


def read_history(path: Path) -> dict[str, list[float]]:
    """Read the metrics of each epoch, by name.

    Raises:
        ValueError: if the file is not a table from training.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        columns = zip(*([float(cell) for cell in row] for row in rows), strict=True)
        return {name: list(column) for name, column in zip(names, columns, strict=True)}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} must be a table of numbers with a header: {error}") from error


def draw_accuracy(path: Path, history: History) -> None:
    """Draw the accuracy on the given labels over the epochs."""
    lines = (
        ("validation_accuracy", "validation", LIGHT["ours"], "-"),
        ("train_accuracy", "training, given labels", LIGHT["other"], "--"),
    )
    with figure_file(path, width=WIDTH, height=HEIGHT) as figure:
        axes = figure.subplots()
        for name, label, color, style in lines:
            percent = [100 * value for value in history[name]]
            axes.plot(history["epoch"], percent, style, color=color, label=label)
        _finish_epochs(axes, "accuracy (%)")
        figure.legend(loc="outside lower center", ncols=2)


def draw_loss(path: Path, history: History) -> None:
    """Draw the terms of the training loss over the epochs (Eq. 23), each unweighted."""
    with figure_file(path, width=WIDTH, height=HEIGHT) as figure:
        axes = figure.subplots()
        axes.plot(history["epoch"], history["train_loss"], color=LIGHT["ink"], label="total")
        for index, name in enumerate(("classification", "branches", "center", "anchor")):
            values = history[f"train_{name}"]
            if any(values):
                color = class_color(index)
                axes.plot(history["epoch"], values, color=color, linewidth=1.2, label=name)
        _finish_epochs(axes, "loss")
        figure.legend(loc="outside lower center", ncols=3)


def draw_setups(path: Path, histories: Mapping[str, History]) -> None:
    """Draw the validation accuracy of several losses over the epochs (Fig. 7)."""
    with figure_file(path, width=7.4, height=4.4) as figure:
        axes = figure.subplots()
        for index, (name, history) in enumerate(histories.items()):
            percent = [100 * value for value in history["validation_accuracy"]]
            width = 2.4 if index == 0 else 1.4
            axes.plot(
                history["epoch"], percent, color=class_color(index), linewidth=width, label=name
            )
        _finish_epochs(axes, "validation accuracy (%)")
        axes.legend()


def draw_embedding(
    path: Path, embedding: Tensor, labels: Tensor, class_names: Sequence[str], *, seed: int = 0
) -> None:
    """Draw a t-SNE of the embeddings (Fig. 6)."""
    points, shown = _sample(embedding, labels, seed)
    perplexity = min(30.0, (len(points) - 1) / 3)
    plane = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(points)
    with figure_file(path, width=WIDTH, height=1.25 * HEIGHT) as figure:
        axes = figure.subplots()
        _scatter(axes, plane, shown, class_names)
        axes.set_axis_off()


def draw_anchors(
    path: Path,
    embedding: Tensor,
    anchors: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> None:
    """Draw anchors and embeddings, projected on the embeddings' first two principal components.

    Both are normalised to the unit sphere. The projection is linear: points that are close on it
    need not be close in the full space, but distant points are distant.
    """
    points, shown = _sample(embedding, labels, seed)
    plane = PCA(2, random_state=seed).fit(points)
    with figure_file(path, width=WIDTH, height=1.25 * HEIGHT) as figure:
        axes = figure.subplots()
        _scatter(axes, plane.transform(points), shown, class_names, alpha=0.4)
        for index, of_class in enumerate(RF.unit_length(anchors.detach().float())):
            x, y = plane.transform(of_class.numpy()).T
            axes.scatter(
                *(x, y, 110),
                marker="*",
                color=class_color(index),
                edgecolors=LIGHT["ink"],
                linewidths=0.7,
                zorder=3,
            )
        axes.set_axis_off()
        share = 100 * plane.explained_variance_ratio_.sum()
        axes.set_title(f"{share:.0f} % of the variance", fontsize=8, fontweight="normal")


def _finish_epochs(axes: Axes, ylabel: str) -> None:
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _sample(
    embedding: Tensor, labels: Tensor, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return embeddings of length 1 and labels of at most MOST_POINTS faces."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(embedding), generator=generator)[:MOST_POINTS]
    return RF.unit_length(embedding.float())[chosen].numpy(), labels[chosen].numpy()


def _scatter(
    axes: Axes,
    plane: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    *,
    alpha: float = 0.75,
) -> None:
    for index, name in enumerate(class_names):
        x, y = plane[labels == index].T
        # As a picture within the SVG, since thousands of points would be large.
        points = axes.scatter(x, y, 9, color=class_color(index), alpha=alpha, label=name)
        points.set(linewidths=0, rasterized=True)
    legend = axes.figure.legend(loc="outside lower center", ncols=4, markerscale=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
