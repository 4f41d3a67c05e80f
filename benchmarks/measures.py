"""Measures of a trained method; shares in percent, NLL and KL in nats."""

from dataclasses import asdict

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from benchmarks.data.task import Task
from benchmarks.methods.base import Method, in_parts, predict
from benchmarks.methods.ours import Ours
from examples.prediction_report import score
from reliability_balance.calibration import area_under_risk_coverage


def prediction_measures(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the measures of (N, C) predictions on the test set."""
    probs = log_probs.exp()
    surest, predicted = probs.max(1)
    return {
        **asdict(score(probs, log_probs.clamp_min(-30), labels)),
        "aurc": 100 * area_under_risk_coverage(surest, predicted == labels),
    }


def measures_by_frequency(
    log_probs: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    for_even_classes: bool,
    votes: Tensor | None = None,
) -> dict[str, float]:
    """Return the measures of (N, C) predictions on a test set with uneven classes.

    Mean class accuracy is computed at even class frequencies, accuracy at test frequencies at those
    of the test set, and all others at those of the training labels. Predictions are adjusted to
    each; `for_even_classes` says which frequencies they are for. With shares of votes (N, C), their
    KL divergence from the predictions is added.
    """
    log_prior = class_counts.clamp_min(1).to(log_probs).log()
    even = log_probs if for_even_classes else log_probs - log_prior
    as_frequent = (even + log_prior).log_softmax(1)
    judged_even = prediction_measures(even.log_softmax(1), labels)
    tested = labels.bincount(minlength=log_probs.shape[1]).to(log_probs).log()
    measures = {
        **prediction_measures(as_frequent, labels),
        "mean_class_accuracy": judged_even["mean_class_accuracy"],
        "accuracy_at_test_frequencies": accuracy(even + tested, labels),
    }
    if votes is not None:
        measures["kl_to_votes"] = kl_divergence(votes, as_frequent)
    return measures


def human_label_measures(method: Method, task: Task) -> dict[str, float]:
    """Return the measures of a method on a task's test set; `primary_…`: of the primary branch."""

    def judged(log_probs: Tensor) -> dict[str, float]:
        return measures_by_frequency(
            log_probs,
            task.test_labels,
            method.shares.sum(0),
            for_even_classes=method.for_even_classes,
            votes=task.test_votes,
        )

    measures = judged(predict(method, task.test_inputs))
    if isinstance(method, Ours):
        primary = in_parts(lambda part: method.output(part).primary_log_probs, task.test_inputs)
        measures |= {f"primary_{name}": value for name, value in judged(primary).items()}
    return measures


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return how many of (N, C) predictions are right, in percent."""
    return 100 * float((scores.argmax(1) == labels).float().mean())


def kl_divergence(truth: Tensor, log_probs: Tensor) -> float:
    """Return the mean KL divergence of the true distributions from the predictions."""
    return float(F.kl_div(log_probs.clamp_min(-30), truth, reduction="batchmean"))


def wrong_label_measures(method: Method, task: Task, trust: Tensor | None) -> dict[str, float]:
    """Return how well low trust finds the wrong labels that a method was trained on.

    For a method without its own score, the trust in a label is its predicted probability. Samples
    that were not trained on, or have no clear true class, are left out.
    """
    if trust is None:
        given = method.shares.argmax(1)
        trust = predict(method, task.inputs).gather(1, given.unsqueeze(1)).squeeze(1)
    judged = trust.isfinite() if task.is_known is None else trust.isfinite() & task.is_known
    found = detection(-trust[judged], task.wrong[judged])
    return {f"wrong_label_{name}": value for name, value in found.items()}


def detection(score: Tensor | np.ndarray, wanted: Tensor) -> dict[str, float]:
    """Return how well high scores find what is wanted; empty if all or nothing is."""
    if not wanted.any() or wanted.all():
        return {}
    truth, scores = wanted.numpy(), np.asarray(score)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "ap": float(average_precision_score(truth, scores)),
    }
