"""Abstention: predict only above a confidence that keeps the error rate below a bound."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance.binomial import error_rate_bound
from reliability_balance.calibration.conformal import round_up
from reliability_balance.core.settings import Configured


class Abstention(Configured):
    r"""Selective prediction: predict only where the error rate is at most `max_risk`, else abstain.

    With probability 1 - `delta` over the N held-out samples, the error rate of the accepted
    predictions is at most `max_risk`, for data from the same distribution. This is tested for

    .. math:: G = \lceil \log_2 N \rceil

    thresholds that do not depend on labels: those that accept all, (G - 1)/G, ..., 1/G of the
    held-out samples. Each is tested by the exact (Clopper-Pearson) bound on the error rate of its
    accepted predictions at level `delta` / G, so that all G bounds hold together (union bound). The
    lowest threshold that passes is taken; equal scores are accepted or rejected together.

    The same distribution includes the class frequencies: an error rate on imbalanced data is mostly
    that of the frequent classes.

    It is conservative: coverage moves in steps of 1/G of the samples, which is also the least that
    is tried, and since the tests are dependent, `delta` / G is stricter than needed.

    Args:
        max_risk: bound of the error rate of accepted predictions, in (0, 1).
        delta: probability that the bound does not hold, in (0, 1).

    Shape:
        - confidence: (...) floating, any score that is higher where the model is more confident,
          such as ``BalancerOutput.confidence``; returns (...) bool, True where accepted.

    State:
        ``threshold`` (), a buffer; NaN until fitted, and infinite (accept nothing) if no threshold
        passes.

    Raises:
        RuntimeError: if it is not fitted.
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS
        2017, https://arxiv.org/abs/1705.08500, for the bound and the union over thresholds. Their
        algorithm 1 searches by bisection, which misses thresholds where the bound is not monotonic
        in the threshold; the fixed grid is ours.

    Example:
        >>> confidence = torch.linspace(0, 1, 1000)
        >>> right = confidence > 0.4
        >>> abstention = Abstention(max_risk=0.1).fit(confidence, right)
        >>> 0.3 < float(abstention.threshold) < 0.45
        True
    """

    SETTINGS: ClassVar = {"max_risk": float, "delta": float}
    FITTED = ("threshold",)

    threshold: Tensor

    def __init__(self, max_risk: float = 0.05, *, delta: float = 0.05) -> None:
        super().__init__()
        checks.open_share("max_risk", max_risk)
        checks.open_share("delta", delta)
        self.max_risk = max_risk
        self.delta = delta
        self.register_buffer("threshold", torch.full((), torch.nan))

    def forward(self, confidence: Tensor) -> Tensor:
        """Return which predictions to accept."""
        checks.fitted("the threshold is", self.threshold)
        wide = numerics.widen(confidence)
        return wide >= self.threshold.to(wide.dtype)

    @torch.no_grad()
    def fit(self, confidence: Tensor, right: Tensor) -> Self:
        """Fit the threshold.

        Args:
            confidence: held-out scores.
            right: whether the predicted class was the true one.

        Shape:
            - confidence: (N,) floating; right: (N,) bool.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or non-finite scores.

        Warns:
            UserWarning: if no threshold passes, so that everything is rejected.
        """
        checks.confidences(confidence, right)
        self.threshold.fill_(torch.inf)
        scores = numerics.widen(confidence)
        thresholds = round_up(scores.sort().values[_grid(len(scores))])
        for threshold in thresholds:
            accepted = scores >= threshold
            errors = int((accepted & ~right).sum())
            # The sample that sets the threshold is not a random draw above it: it does not count.
            count = max(errors, int(accepted.sum()) - 1)
            if error_rate_bound(errors, count, self.delta / len(thresholds)) <= self.max_risk:
                self.threshold.copy_(threshold)
                return self
        checks.warn(
            f"`max_risk` = {self.max_risk} is not certain at any threshold, so every prediction is "
            f"rejected; got {int((~right).sum())} errors in {len(right)} samples, and even without "
            f"errors {_fewest(self.max_risk, self.delta)} samples are needed"
        )
        return self


def _fewest(max_risk: float, delta: float) -> int:
    """Return how many held-out samples, all predicted right, are needed for a threshold."""
    count, needed = 0, 2
    while needed > count:
        count = needed
        needed = 1 + math.ceil(math.log(delta / len(_grid(count))) / math.log1p(-max_risk))
    return count


def _grid(count: int) -> list[int]:
    """Return how many of `count` samples each threshold rejects, rising from 0."""
    size = min(count, math.ceil(math.log2(max(2, count))))
    return [step * count // size for step in range(size)]
