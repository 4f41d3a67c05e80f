"""What a trained method is judged by; shares in percent, NLL and KL in nats."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from prediction_report import score
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F


def prediction_measures(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Judge (N, C) predictions of the test set."""
    probs = log_probs.exp()
    return {
        **asdict(score(probs, log_probs.clamp_min(-30), labels)),
        "aurc": 100 * area_under_risk_coverage(probs, labels),
    }


def area_under_risk_coverage(probs: Tensor, labels: Tensor) -> float:
    """Mean error of the surest 1, 2, … N predictions."""
    surest, predicted = probs.max(1)
    wrong = (predicted != labels)[surest.argsort(descending=True)].double()
    return float((wrong.cumsum(0) / torch.arange(1, len(wrong) + 1)).mean())


def label_measures(
    log_probs: Tensor, truth: Tensor, labels: Tensor, trust: Tensor | None
) -> dict[str, float]:
    """Judge what the method knows of its training samples: their true classes, the wrong labels.

    Without a judgement of its own, a method trusts a label as far as it predicts it.
    """
    measures = {
        "kl_to_truth": float(F.kl_div(log_probs.clamp_min(-30), truth, reduction="batchmean"))
    }
    wrong = truth.argmax(1) != labels
    if wrong.any() and not wrong.all():
        if trust is None:
            trust = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
        measures["wrong_label_auroc"] = float(roc_auc_score(wrong.numpy(), -trust.numpy()))
        measures["wrong_label_ap"] = float(average_precision_score(wrong.numpy(), -trust.numpy()))
    return measures


def accuracy_by_seed(lines: list[dict[str, Any]], wanted: Mapping[str, Any]) -> dict[int, float]:
    """Accuracy, by seed, of the runs whose fields have these values."""
    return {line["seed"]: line["accuracy"] for line in lines if wanted.items() <= line.items()}


def paired_differences(ours: dict[int, float], theirs: dict[int, float]) -> dict[int, float]:
    """Ours less theirs, by seed, where both have one."""
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def show_mean(values: list[float], digits: int, sign: str = "") -> str:
    """Mean ± 95 % interval as text; of a single value the mean alone."""
    mean, interval = mean_and_interval(values)
    shown = f"{mean:{sign}.{digits}f}"
    return shown if interval != interval else f"{shown} ± {interval:.{digits}f}"


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; NaN for a single value."""
    from scipy import stats

    sample = torch.tensor(values, dtype=torch.float64)
    if len(sample) < 2:
        return float(sample.mean()), float("nan")
    error: Any = sample.std() / len(sample) ** 0.5
    return float(sample.mean()), float(stats.t.ppf(0.975, len(sample) - 1) * error)
