"""Scores of predicted distributions against labels and true distributions."""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    precision_recall_fscore_support,
)
from torch import Tensor

from examples.prediction_report import score
from reliability_balance import functional as RF
from reliability_balance.calibration import area_under_risk_coverage


@dataclass(frozen=True)
class FaceScores:
    """Accuracies, macro scores, ECE, AURC and total variation in percent; NLL and KL in nats.

    ``mean_class_accuracy`` is macro recall. ``kl`` and ``total_variation`` are None if no true
    distribution is known.
    """

    accuracy: float
    mean_class_accuracy: float
    macro_precision: float
    macro_f1: float
    nll: float
    brier: float
    ece: float
    aurc: float
    kl: float | None
    total_variation: float | None


class ScoreName(NamedTuple):
    """How a score is shown, and what it means in a sentence."""

    label: str
    unit: str
    decimals: int
    meaning: str

    def show(self, value: float | None) -> str:
        """Format a value with its unit; None as nothing."""
        return "" if value is None else f"{value:.{self.decimals}f} {self.unit}".rstrip()


SCORES = {  # by field of FaceScores
    "accuracy": ScoreName(
        "accuracy", "%", 1, "Share of the faces whose most probable class is the label."
    ),
    "mean_class_accuracy": ScoreName(
        *("mean class accuracy", "%", 1),
        "Accuracy of each class, averaged: rare classes count as much as frequent ones.",
    ),
    "macro_precision": ScoreName(
        *("macro precision", "%", 1),
        "Share of the predictions of a class that are right, averaged over the classes.",
    ),
    "macro_f1": ScoreName(
        *("macro F1", "%", 1),
        "Harmonic mean of precision and recall of a class, averaged over the classes.",
    ),
    "nll": ScoreName(
        *("NLL", "nats", 3),
        "Negative log-likelihood of the labels: punishes wrong predictions that are sure.",
    ),
    "brier": ScoreName(
        *("Brier score", "", 3),
        "Squared distance between probabilities and label, from 0 (best) to 2.",
    ),
    "ece": ScoreName(
        *("ECE", "%", 1),
        "Expected calibration error: how far probabilities are from the share that is right, on "
        "average. 0 is perfect.",
    ),
    "aurc": ScoreName(
        *("AURC", "%", 1),
        "Area under the risk-coverage curve: error rate when only the most confident predictions "
        "are used, averaged over all shares.",
    ),
    "kl": ScoreName(
        *("KL to the votes", "nats", 3),
        "Kullback-Leibler divergence from the votes of people, or from the true label "
        "distribution, to the predicted one. 0 is perfect.",
    ),
    "total_variation": ScoreName(
        *("total variation", "%", 1),
        "Probability that is in the wrong classes, compared with the votes or the true label "
        "distribution.",
    ),
}


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class: its count, and precision, recall and F1 in percent."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Clustering:
    """Separation of the classes in the embedding: the first is better low, the second high."""

    davies_bouldin: float
    calinski_harabasz: float


def score_faces(
    probs: Tensor, log_probs: Tensor, labels: Tensor, distributions: Tensor | None
) -> FaceScores:
    """Score (N, C) predictions against (N,) labels, and against (N, C) distributions if known."""
    known = asdict(score(probs, log_probs, labels))
    surest, predicted = probs.max(-1)
    precision, _, _, _ = precision_recall_fscore_support(
        labels, predicted, labels=labels.unique(), average="macro", zero_division=0
    )
    return FaceScores(
        **known,
        macro_precision=100 * float(precision),
        brier=brier(probs, labels),
        aurc=100 * area_under_risk_coverage(surest, predicted == labels),
        kl=None if distributions is None else kl_divergence(distributions, log_probs),
        total_variation=(
            None if distributions is None else 100 * total_variation(distributions, probs)
        ),
    )


def score_classes(probs: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> list[ClassScores]:
    """Score each class separately."""
    columns = precision_recall_fscore_support(
        labels, probs.argmax(-1), labels=range(len(class_names)), zero_division=0
    )
    return [
        ClassScores(name, int(support), 100 * float(p), 100 * float(r), 100 * float(f1))
        for name, p, r, f1, support in zip(class_names, *columns, strict=True)
    ]


def score_clustering(embedding: Tensor, labels: Tensor) -> Clustering | None:
    """Score (N, D) embeddings on the unit sphere; None for fewer than 2 classes."""
    num_labels = len(labels.unique())
    if not 2 <= num_labels < len(labels):
        return None
    points = RF.unit_length(embedding).numpy()
    return Clustering(
        float(davies_bouldin_score(points, labels)), float(calinski_harabasz_score(points, labels))
    )


def brier(probs: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance to the one-hot label, in [0, 2]."""
    one_hot = torch.nn.functional.one_hot(labels, probs.shape[-1])
    return float((probs - one_hot).square().sum(-1).mean())


def kl_divergence(distributions: Tensor, log_probs: Tensor) -> float:
    """Return the mean of KL(true distribution || predicted), in nats."""
    return float(torch.nn.functional.kl_div(log_probs, distributions, reduction="batchmean"))


def total_variation(distributions: Tensor, probs: Tensor) -> float:
    """Return the mean total variation distance, in [0, 1]."""
    return float(0.5 * (distributions - probs).abs().sum(-1).mean())
