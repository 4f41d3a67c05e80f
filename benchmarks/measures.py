"""Measures of a trained method; shares in percent, NLL and KL in nats."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

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
        "accuracy_at_test_frequencies": 100
        * float(((even + tested).argmax(1) == labels).float().mean()),
    }
    if votes is not None:
        measures["kl_to_votes"] = _kl(votes, as_frequent)
    return measures


def _kl(truth: Tensor, log_probs: Tensor) -> float:
    """Return the mean KL divergence of the true distributions from the predictions."""
    return float(F.kl_div(log_probs.clamp_min(-30), truth, reduction="batchmean"))


def label_measures(
    log_probs: Tensor, truth: Tensor, labels: Tensor, trust: Tensor | None
) -> dict[str, float]:
    """Return how well a method finds true classes and wrong labels of its training samples.

    For a method without its own score, the trust in a label is its predicted probability.
    """
    if trust is None:
        trust = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
    kl = _kl(truth, log_probs)
    return {"kl_to_truth": kl, **wrong_label_measures(trust, truth.argmax(1) != labels)}


def wrong_label_measures(trust: Tensor, wrong: Tensor) -> dict[str, float]:
    """Return how well low trust finds wrong labels; empty if all or none are wrong."""
    if not wrong.any() or wrong.all():
        return {}
    return {
        "wrong_label_auroc": float(roc_auc_score(wrong.numpy(), -trust.numpy())),
        "wrong_label_ap": float(average_precision_score(wrong.numpy(), -trust.numpy())),
    }


def accuracy_by_seed(lines: list[dict[str, Any]], wanted: Mapping[str, Any]) -> dict[int, float]:
    """Return the accuracy by seed of the runs with these fields."""
    return {line["seed"]: line["accuracy"] for line in lines if wanted.items() <= line.items()}


def paired_differences(ours: dict[int, float], theirs: dict[int, float]) -> dict[int, float]:
    """Return ours less theirs by seed, for common seeds."""
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def show_mean(values: list[float], digits: int, sign: str = "") -> str:
    """Format mean ± 95 % interval; for a single value only the mean."""
    mean, interval = mean_and_interval(values)
    shown = f"{mean:{sign}.{digits}f}"
    return shown if interval != interval else f"{shown} ± {interval:.{digits}f}"


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student's t; NaN for one value)."""
    from scipy import stats

    sample = torch.tensor(values, dtype=torch.float64)
    if len(sample) < 2:
        return float(sample.mean()), float("nan")
    error: Any = sample.std() / len(sample) ** 0.5
    return float(sample.mean()), float(stats.t.ppf(0.975, len(sample) - 1) * error)
