"""Abstention: answer only above a confidence that keeps the error rate below a bound."""

import math

import torch
from torch import Tensor, nn
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.calibration.conformal import round_up

HALVINGS = 60


class Abstention(nn.Module):
    r"""Answer only where the confidence promises an error rate of at most `max_risk`.

    With probability 1 - `delta` over the N held-out samples, the error rate among the answers is at
    most `max_risk`, for data drawn alike. This is tested for

    .. math:: G = \lceil \log_2 N \rceil

    thresholds that no label has a say in: those that answer all, (G - 1)/G, ..., 1/G of the
    held-out samples. Each is tested by the exact bound on the error rate of its answers
    (Clopper-Pearson) with probability `delta` / G of being wrong, so that all G hold together
    (union bound). The lowest threshold that passes is taken; equal scores are answered together.

    "Drawn alike" includes the frequencies of the classes: an error rate on unbalanced data is
    mostly that of the frequent classes.

    It answers less than it might: 1/G of the samples is the step between two thresholds, and the
    least that is tried; and since the tests go wrong together, `delta` / G each is stricter than
    all of them need.

    Args:
        max_risk: error rate among the answers that may not be exceeded, in (0, 1).
        delta: probability of breaking the promise, in (0, 1).

    Shape:
        - confidence: (...) floating, any score that is higher where the model is surer, such as
          ``BalancerOutput.confidence``; returns (...) bool, True where to answer.

    State:
        ``threshold`` (), a buffer; infinite (never answer) until fitted, and where no threshold
        passes.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS
        2017, https://arxiv.org/abs/1705.08500, for the bound and the union over thresholds. Their
        algorithm 1 finds its thresholds by bisection, which misses those that pass where the bound
        does not fall steadily with the threshold; the fixed grid is ours.

    Example:
        >>> confidence = torch.linspace(0, 1, 1000)
        >>> right = confidence > 0.4
        >>> abstention = Abstention(max_risk=0.1).fit(confidence, right)
        >>> 0.3 < float(abstention.threshold) < 0.45
        True
    """

    threshold: Tensor

    def __init__(self, max_risk: float = 0.05, *, delta: float = 0.05) -> None:
        super().__init__()
        checks.open_share("max_risk", max_risk)
        checks.open_share("delta", delta)
        self.max_risk = max_risk
        self.delta = delta
        self.register_buffer("threshold", torch.full((), torch.inf))

    def forward(self, confidence: Tensor) -> Tensor:
        """Return where to answer."""
        wide = RF.widen(confidence)
        return wide >= self.threshold.to(wide.dtype)

    @torch.no_grad()
    def fit(self, confidence: Tensor, right: Tensor) -> Self:
        """Find the threshold.

        Args:
            confidence: held-out scores.
            right: whether the predicted class was the true one.

        Shape:
            - confidence: (N,) floating; right: (N,) bool.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or non-finite scores.
        """
        checks.confidences(confidence, right)
        self.threshold.fill_(torch.inf)
        scores = RF.widen(confidence)
        thresholds = round_up(scores.sort().values[_grid(len(scores))])
        for threshold in thresholds:
            answered = scores >= threshold
            errors = int((answered & ~right).sum())
            # One of them lies at the threshold by choice, and so tells nothing of the others' rate.
            drawn = max(errors, int(answered.sum()) - 1)
            if error_rate_bound(errors, drawn, self.delta / len(thresholds)) <= self.max_risk:
                self.threshold.copy_(threshold)
                break
        return self

    def extra_repr(self) -> str:
        """Name the promise and the threshold."""
        return (
            f"max_risk={self.max_risk}, delta={self.delta}, threshold={float(self.threshold):.4g}"
        )


def error_rate_bound(errors: int, count: int, delta: float) -> float:
    """Rate that the true error rate does not exceed, with probability 1 - `delta`.

    The exact binomial bound (Clopper-Pearson): the rate at which as few errors as were seen, or
    fewer, have probability `delta`.

    Args:
        errors: wrong answers seen, in [0, count].
        count: answers seen.
        delta: probability of a rate above the bound, in (0, 1).

    Raises:
        TypeError: if a count is not an int.
        ValueError: on values out of range.

    Example:
        >>> round(error_rate_bound(0, 100, 0.05), 4)  # 1 - 0.05 ** (1 / 100)
        0.0295
    """
    checks.at_least("errors", errors, 0)
    checks.at_least("count", count, errors)
    checks.open_share("delta", delta)
    if errors == count:
        return 1.0
    k = torch.arange(errors + 1, dtype=torch.float64)
    total = torch.tensor(float(count), dtype=torch.float64)
    log_choices = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
    low, high = errors / count, 1.0
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        log_terms = log_choices + k * math.log(rate) + (total - k) * math.log1p(-rate)
        if float(log_terms.logsumexp(0)) > math.log(delta):
            low = rate
        else:
            high = rate
    return high


def _grid(count: int) -> list[int]:
    """How many of `count` samples each threshold leaves without an answer, rising from none."""
    size = min(count, math.ceil(math.log2(max(2, count))))
    return [step * count // size for step in range(size)]
