"""Predictions with guarantees: conformal prediction sets, and abstention below a threshold."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.core.settings import Configured

HALVINGS = 60


class PredictionSets(Configured):
    r"""Sets of classes that contain the true one with given probability (split conformal).

    .. math:: S(x) = \{c : -\log p_c(x) \le q\}

    where q is the ceil((N + 1) coverage)-th smallest of the N held-out values -log p_y. For data
    exchangeable with the held-out data, the set contains the true class with probability
    `coverage` at least, on average over all data. This holds for any model; a poor one only has
    larger sets. Coverage is marginal: it may be lower for a rare class, and nothing is guaranteed
    for a class that the held-out data lack. For coverage on evenly frequent classes, fit on equally
    many held-out samples of each class, none repeated.

    Args:
        coverage: probability with which a set contains the true class, in (0, 1).

    Shape:
        - log_probs: (..., C) floating log-probabilities; returns (..., C) bool, the set's members.

    State:
        ``threshold`` (), the q above, a buffer; infinite (all classes) until fitted, and if there
        were too few samples for any finite threshold.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers, JASA 2019,
        https://arxiv.org/abs/1609.00451.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]).log()
        >>> sets = PredictionSets(coverage=0.5).fit(log_probs, torch.tensor([0, 0, 0]))
        >>> sets(torch.tensor([[0.85, 0.15], [0.5, 0.5]]).log())
        tensor([[ True, False],
                [False, False]])
    """

    SETTINGS: ClassVar = {"coverage": float}
    FITTED = ("threshold",)

    threshold: Tensor

    def __init__(self, coverage: float = 0.9) -> None:
        super().__init__()
        _open_share("coverage", coverage)
        self.coverage = coverage
        self.register_buffer("threshold", torch.full((), torch.inf))

    def forward(self, log_probs: Tensor) -> Tensor:
        """Return which classes each set contains."""
        wide = RF.widen(log_probs)
        return -wide <= self.threshold.to(wide.dtype)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor) -> Self:
        """Fit the threshold.

        Args:
            log_probs: held-out log-probabilities, on which nothing else was fitted.
            labels: their class indices.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values.
        """
        checks.distributions("log_probs", log_probs)
        checks.rank("log_probs", log_probs, "(N, C)", 2)
        checks.scores("log_probs", log_probs)
        checks.indices("labels", labels)
        checks.labels(labels, log_probs.shape[:1], log_probs.shape[-1])
        checks.label_values(labels, log_probs.shape[-1])
        surprise = -RF.widen(log_probs).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        rank = math.ceil((len(labels) + 1) * self.coverage)
        if rank > len(labels):
            self.threshold.fill_(torch.inf)
        else:
            self.threshold.copy_(_not_below(surprise.kthvalue(rank).values))
        return self


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
        ``threshold`` (), a buffer; infinite (accept nothing) until fitted, and if no threshold
        passes.

    Raises:
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
        _open_share("max_risk", max_risk)
        _open_share("delta", delta)
        self.max_risk = max_risk
        self.delta = delta
        self.register_buffer("threshold", torch.full((), torch.inf))

    def forward(self, confidence: Tensor) -> Tensor:
        """Return which predictions to accept."""
        wide = RF.widen(confidence)
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
        """
        checks.floating("confidence", confidence)
        checks.rank("confidence", confidence, "(N,)", 1)
        checks.finite("confidence", confidence)
        if not isinstance(right, Tensor) or right.dtype != torch.bool:
            got = right.dtype if isinstance(right, Tensor) else type(right).__name__
            raise TypeError(f"`right` must be a bool tensor; got {got}")
        if right.shape != confidence.shape:
            raise ValueError(
                f"`right` must have shape {tuple(confidence.shape)}; got {tuple(right.shape)}"
            )
        self.threshold.fill_(torch.inf)
        scores = RF.widen(confidence)
        thresholds = _not_below(scores.sort().values[_grid(len(scores))])
        for threshold in thresholds:
            accepted = scores >= threshold
            errors = int((accepted & ~right).sum())
            # The sample that sets the threshold is not a random draw above it: it does not count.
            count = max(errors, int(accepted.sum()) - 1)
            if error_rate_bound(errors, count, self.delta / len(thresholds)) <= self.max_risk:
                self.threshold.copy_(threshold)
                break
        return self


def error_rate_bound(errors: int, count: int, delta: float) -> float:
    """Return an upper bound of the true error rate that holds with probability 1 - `delta`.

    The exact binomial (Clopper-Pearson) bound: the rate at which `errors` or fewer errors have
    probability `delta`.

    Args:
        errors: wrong predictions, in [0, count].
        count: predictions.
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
    _open_share("delta", delta)
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
    """Return how many of `count` samples each threshold rejects, rising from 0."""
    size = min(count, math.ceil(math.log2(max(2, count))))
    return [step * count // size for step in range(size)]


def _not_below(value: Tensor) -> Tensor:
    """Return the value in float32, rounded up, so that rounding breaks no guarantee."""
    single = value.to(torch.float32)
    return torch.nextafter(single, single + torch.inf).where(single < value, single)


def _open_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must lie in (0, 1); got {value}")
