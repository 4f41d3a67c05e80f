"""Evaluate selective prediction: the error rate of a model that answers where it is surest."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance.binomial import error_rate_bound
from reliability_balance.labels.interval import Interval


class SelectiveRisk(NamedTuple):
    """Error rates of selective prediction, each with an interval.

    Attributes:
        aurc: area under the risk-coverage curve.
        augrc: area under the generalized risk-coverage curve.
        risks: error rate among the surest predictions, by coverage.

    ``str()`` lists all of them in percent.
    """

    aurc: Interval
    augrc: Interval
    risks: dict[float, Interval]

    def __str__(self) -> str:
        lines = [f"AURC {self.aurc}", f"AUGRC {self.augrc}"]
        lines += [
            f"risk at {100 * share:g} % coverage {risk}" for share, risk in self.risks.items()
        ]
        return "\n".join(lines)


def selective_risk(
    confidence: Tensor,
    right: Tensor,
    *,
    coverages: Sequence[float] = (0.5, 0.8, 0.9, 1.0),
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> SelectiveRisk:
    """Estimate how well a confidence separates right predictions from wrong ones.

    The intervals of the areas are percentiles of a bootstrap over samples. Those of the risks are
    exact for the given confidences (Clopper-Pearson).

    Args:
        confidence: any score that is higher where the model is surer.
        right: whether the predicted class was the true one.
        coverages: shares of samples to answer, in (0, 1]. Equal scores are answered together, so
            the share may be larger.
        level: of the intervals, in (0, 1).
        num_resamples: of the bootstrap, >= 2.
        seed: of the bootstrap.

    Shape:
        - confidence: (N,) floating, N >= 1; right: (N,) bool.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Example:
        >>> confidence = torch.linspace(0, 1, 1000)
        >>> print(selective_risk(confidence, confidence > 0.1, coverages=[0.8, 1.0]))
        AURC 0.5 % [0.3, 0.7]
        AUGRC 0.5 % [0.3, 0.7]
        risk at 80 % coverage 0.0 % [0.0, 0.5]
        risk at 100 % coverage 10 % [8, 12]
    """
    _check(confidence, right)
    for coverage in coverages:
        if not 0.0 < coverage <= 1.0:
            raise ValueError(f"`coverages` must lie in (0, 1]; got {coverage}")
    checks.open_share("level", level)
    checks.at_least("num_resamples", num_resamples, 2)
    draws = torch.Generator().manual_seed(seed)
    resampled = []
    for _ in range(num_resamples):
        index = torch.randint(len(right), (len(right),), generator=draws).to(right.device)
        resampled.append(_areas(confidence[index], right[index]))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    limits = torch.tensor(resampled, dtype=torch.float64).quantile(tails, 0)
    values = torch.tensor(_areas(confidence, right), dtype=torch.float64)
    aurc, augrc = (Interval(value, *limits[:, each]) for each, value in enumerate(values))
    risks = {coverage: _risk(confidence, right, coverage, level) for coverage in coverages}
    return SelectiveRisk(aurc, augrc, risks)


def area_under_risk_coverage(confidence: Tensor, right: Tensor) -> float:
    r"""Return AURC: the error rate of the surest predictions, averaged over how many are kept.

    .. math:: \frac{1}{N} \sum_n \frac{1}{n} \sum_{i \le n} e_i

    where e_i is 1 if the i-th surest prediction is wrong. Equal confidences count with
    their mean error, so the order of the samples does not matter. 0 is best; a confidence that
    ranks at random gives the error rate.

    Args:
        confidence: any score that is higher where the model is surer.
        right: whether the predicted class was the true one.

    Shape:
        - confidence: (N,) floating, N >= 1; right: (N,) bool; returns a number in [0, 1].

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural
        Classifiers, ICLR 2019, https://arxiv.org/abs/1805.08206.

    Example:
        >>> area_under_risk_coverage(torch.tensor([0.9, 0.8]), torch.tensor([True, False]))
        0.25
    """
    _check(confidence, right)
    return _areas(confidence, right)[0]


def area_under_generalized_risk(confidence: Tensor, right: Tensor) -> float:
    r"""Return AUGRC: the share of samples answered wrongly, averaged over how many are kept.

    .. math:: \frac{1}{N} \sum_n \frac{1}{N} \sum_{i \le n} e_i

    Unlike in :func:`area_under_risk_coverage`, a wrong prediction costs in proportion to the number
    of less sure ones, so a few confident errors do not dominate. 0 is best; a confidence that ranks
    at random gives half the error rate.

    Args:
        confidence: any score that is higher where the model is surer.
        right: whether the predicted class was the true one.

    Shape:
        - confidence: (N,) floating, N >= 1; right: (N,) bool; returns a number in [0, 1].

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Traub et al., Overcoming Common Flaws in the Evaluation of Selective Classification
        Systems, NeurIPS 2024, https://arxiv.org/abs/2407.01032.

    Example:
        >>> area_under_generalized_risk(torch.tensor([0.9, 0.8]), torch.tensor([True, False]))
        0.25
    """
    _check(confidence, right)
    return _areas(confidence, right)[1]


def _areas(confidence: Tensor, right: Tensor) -> tuple[float, float]:
    """Return AURC and AUGRC, from one sorting."""
    errors = _errors(confidence, right).cumsum(0)
    kept = torch.arange(1, len(errors) + 1, device=errors.device)
    return float((errors / kept).mean()), float(errors.mean() / len(errors))


def _errors(confidence: Tensor, right: Tensor) -> Tensor:
    """Errors (N,) in order of falling confidence, averaged where confidences are equal."""
    ordered, order = confidence.sort(descending=True, stable=True)
    errors = (~right[order]).double()
    _, tie, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    sums = errors.new_zeros(len(counts)).index_add(0, tie, errors)
    averaged: Tensor = (sums / counts)[tie]
    return averaged


def _risk(confidence: Tensor, right: Tensor, coverage: float, level: float) -> Interval:
    """Error rate of the surest, with its exact interval."""
    fewest = math.ceil(coverage * len(confidence))
    answered = confidence >= confidence.sort(descending=True).values[fewest - 1]
    count = int(answered.sum())
    errors = int((answered & ~right).sum())
    tail = (1 - level) / 2
    limits = (
        errors / count,
        1 - error_rate_bound(count - errors, count, tail),
        error_rate_bound(errors, count, tail),
    )
    return Interval(*(torch.tensor(each, dtype=torch.float64) for each in limits))


def _check(confidence: Tensor, right: Tensor) -> None:
    checks.confidences(confidence, right)
    if len(confidence) == 0:
        raise ValueError("`confidence` must hold at least 1 sample; got 0")
