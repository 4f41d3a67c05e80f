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

from examples.arbex.report.figure_style import MUTED_COLOR, class_color, figure_file
from examples.arbex.report.scoring import Clustering
from examples.prediction_report import CORRECTED_COLOR, PRIMARY_COLOR
from reliability_balance import BalancerOutput
from reliability_balance import functional as RF

MOST_POINTS = 2000  # more would overlap and take long
History = Mapping[str, Sequence[float]]


def draw_embedding(
    path: Path,
    output: BalancerOutput,
    labels: Tensor,
    class_names: tuple[str, ...],
    clustering: Clustering | None,
    *,
    seed: int = 0,
) -> None:
    """Draw a t-SNE of the embeddings with the clustering scores (Fig. 6).

    The scores are those of the embeddings themselves, not of the projection.
    """
    points, shown = _sample(RF.unit_length(output.embedding.float()), labels, seed)
    perplexity = min(30.0, (len(points) - 1) / 3)
    plane = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(points)
    with figure_file(path, width=6.4, height=5.2) as figure:
        axes = figure.subplots()
        _scatter(axes, plane, shown, class_names)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if clustering is not None:
            axes.set_title(
                f"Davies-Bouldin ↓ {clustering.davies_bouldin:.3f}    "
                f"Calinski-Harabasz ↑ {clustering.calinski_harabasz:.1f}"
            )


def draw_anchors(
    path: Path,
    output: BalancerOutput,
    labels: Tensor,
    class_names: tuple[str, ...],
    *,
    seed: int = 0,
) -> None:
    """Draw anchors and embeddings, projected on the embeddings' first two principal components.

    Both are normalised to the unit sphere. The projection is linear: points that are close on it
    need not be close in the full space, but distant points are distant.

    Raises:
        ValueError: if the model has no anchors.
    """
    if output.anchors is None:
        raise ValueError("`output` must come from a model with anchors; got none")
    points, shown = _sample(RF.unit_length(output.embedding.float()), labels, seed)
    plane = PCA(2, random_state=seed).fit(points)
    anchors = RF.unit_length(output.anchors.detach().float())
    variance = 100 * plane.explained_variance_ratio_.sum()
    with figure_file(path, width=6.4, height=5.2) as figure:
        axes = figure.subplots()
        _scatter(axes, plane.transform(points), shown, class_names, alpha=0.3)
        for index, of_class in enumerate(anchors):
            x, y = plane.transform(of_class.numpy()).T
            axes.scatter(
                *(x, y, 130),
                marker="*",
                color=class_color(index),
                edgecolors="#111827",
                linewidths=0.8,
                zorder=3,
            )
        axes.set(xlabel="first principal component", ylabel="second principal component")
        axes.set_title(f"★ anchors, ● embeddings; {variance:.0f} % of the variance")


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


def draw_training(path: Path, history: History) -> None:
    """Draw accuracy and loss over the epochs."""
    with figure_file(path, width=8.6, height=3.6) as figure:
        accuracy, loss = figure.subplots(1, 2)
        epochs = history["epoch"]
        for name, label, color, style in (
            ("validation_accuracy", "validation, corrected", CORRECTED_COLOR, "-"),
            ("validation_primary_accuracy", "validation, primary", PRIMARY_COLOR, "-"),
            ("train_accuracy", "training labels, corrected", MUTED_COLOR, ":"),
        ):
            percent = [100 * value for value in history[name]]
            accuracy.plot(epochs, percent, style, color=color, label=label)
        accuracy.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
        accuracy.legend(fontsize=8)
        for index, name in enumerate(("loss", "classification", "branches", "center", "anchor")):
            values = history[f"train_{name}"]
            if any(values):
                width = 2.0 if name == "loss" else 1.2
                label = "total" if name == "loss" else name
                color = "#111827" if name == "loss" else class_color(index)
                loss.plot(epochs, values, color=color, linewidth=width, label=label)
        loss.set(
            xlabel="epoch", ylabel="loss, each term unweighted", title="Training loss (Eq. 23)"
        )
        loss.legend(fontsize=8)
        for axes in (accuracy, loss):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))


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
        axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()


def _sample(points: Tensor, labels: Tensor, seed: int) -> tuple[npt.NDArray[np.float32], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(points), generator=generator)[:MOST_POINTS]
    return points[chosen].numpy(), labels[chosen]


def _scatter(
    axes: Axes,
    plane: npt.NDArray[np.float32],
    labels: Tensor,
    class_names: tuple[str, ...],
    *,
    alpha: float = 0.75,
) -> None:
    for index, name in enumerate(class_names):
        x, y = plane[labels.numpy() == index].T
        axes.scatter(x, y, 9, color=class_color(index), alpha=alpha, linewidths=0, label=name)
    legend = axes.figure.legend(loc="outside right center", markerscale=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
