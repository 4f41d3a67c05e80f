"""Checks of a training set, one class each: outliers, near-duplicates, weak groups, wrong labels.

Names and columns are those of cleanlab's Datalab: ``is_NAME_issue`` and ``NAME_score``, a score in
[0, 1] that is lower for worse samples.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance.core.clustering import k_means
from reliability_balance.labels.embedding_beliefs import nearest_voters
from reliability_balance.labels.inspection import LabelRanking, Verdict
from reliability_balance.labels.rows import blocks
from reliability_balance.labels.tables import printable

# Nearest neighbours of each sample.
NEIGHBOURS = 10
# Outliers of a smaller class are compared with all samples.
SMALLEST_CLASS = 50
# Log of the ratio of the spreads above and below the median; 0.8 in two dimensions.
MOST_SKEWED = 3.0
# A cluster of weak groups has this many samples on average; there are at most so many clusters.
CLUSTER_SIZE, MOST_CLUSTERS = 100, 50


class CheckInput(NamedTuple):
    """What a check sees of a training set.

    Attributes:
        points: embeddings; of unit length where distances are cosine distances.
        is_cosine: whether distances are cosine distances, half the squared Euclidean ones.
        neighbours: the nearest other samples, nearest first, K = min(10, N - 1).
        distances: distances to them.
        ranking: the label ranking, in order of the samples.
        predicted: class that the beliefs predict without the sample's label.
        seed: seed of a check that draws at random.

    Shape:
        - points: (N, D) floating; neighbours: (N, K) int64; distances: (N, K) floating; predicted:
          (N,) int64; all but the points are on the CPU.
    """

    points: Tensor
    is_cosine: bool
    neighbours: Tensor
    distances: Tensor
    ranking: LabelRanking
    predicted: Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What a check found.

    Args:
        is_issue: whether a sample has the issue.
        score: in [0, 1], lower for worse samples.
        details: further columns, (N,) each.
        groups: what was found of several samples together; ``str()`` describes each.

    Shape:
        - is_issue: (N,) bool; score: (N,) float64.
    """

    is_issue: Tensor
    score: Tensor
    details: dict[str, Tensor] = field(default_factory=dict)
    groups: Sequence[Any] = ()


class Check(ABC):
    """Interface of a check: a name, and a call that returns what it found.

    Example:
        >>> class Isolated(Check):
        ...     name = "isolated"
        ...     def __call__(self, samples):
        ...         score = 1 / (1 + samples.distances[:, 0].double())
        ...         return CheckResult(score < 0.5, score)
    """

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, samples: CheckInput) -> CheckResult:
        """Check all samples."""


@dataclass(frozen=True)
class WrongLabels(Check):
    """Labels that :func:`labels.rank_labels` calls mislabelled; the score is 1 - doubt."""

    name = "label"

    def __call__(self, samples: CheckInput) -> CheckResult:
        """Return the verdicts of the ranking."""
        ranking = samples.ranking
        return CheckResult(
            ranking.verdict == Verdict.MISLABELLED,
            1.0 - ranking.doubt.double(),
            {"given_label": ranking.given, "predicted_label": ranking.suggested},
        )


@dataclass(frozen=True)
class Outliers(Check):
    r"""Samples far from those of their class.

    .. math:: z_i = \frac{1}{\sigma} \log \Big( 1 + (e^\sigma - 1) \frac{x_i - m}{b} \Big), \quad
        \sigma = \max \Big( 0, \log \frac{b}{a} \Big), \quad \mathrm{score} = 1 - \Phi(z_i)

    where x is the log of the mean distance to the 10 nearest samples with the same suggested class,
    m its median in the class, and m - a and m + b its 16 % and 84 % quantiles, which outliers
    hardly move. So the score is the share of ordinary samples that are at least as far away, if x
    is log-normal after a shift, or normal: sigma, its skewness, is large in few dimensions. At a
    rate of 1 %, of normal embeddings 1.9 % were called outliers in one dimension, and 0.03 to 0.9 %
    in 2 to 64. Samples of classes with fewer than 50 samples are compared with all.

    A group of outliers that resemble each other is missed if it has more than 10 members.

    Args:
        false_alarm_rate: share of ordinary samples that are called outliers, in (0, 1), if x is so
            distributed.

    Reference: nearest-neighbour distances as in Kuan and Mueller, Back to the Basics: Revisiting
        Out-of-Distribution Detection Baselines, 2022, https://arxiv.org/abs/2207.03061.
    """

    name = "outlier"
    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        checks.open_share("false_alarm_rate", self.false_alarm_rate)

    def __call__(self, samples: CheckInput) -> CheckResult:
        """Compare each sample with its class."""
        deviation = _deviation(samples.distances.double().mean(1))
        classes, counts = samples.ranking.suggested.unique(return_counts=True)
        for label in classes[counts >= SMALLEST_CLASS]:
            members = (samples.ranking.suggested == label).nonzero().squeeze(1)
            _, distances = nearest_samples(
                samples.points[members.to(samples.points.device)], samples.is_cosine
            )
            deviation[members] = _deviation(distances.double().mean(1))
        score = torch.special.ndtr(-deviation)
        return CheckResult(score < self.false_alarm_rate, score)


@dataclass(frozen=True)
class NearDuplicates(Check):
    r"""Samples that are almost equal, in sets.

    .. math:: d_i \le \mathrm{threshold} \cdot \mathrm{median}(d), \quad
        \mathrm{score} = 1 - e^{-d_i / \mathrm{median}(d)}

    where d is the distance to the nearest sample, of any class. Samples within the threshold of
    each other are in one set, and so are those that a chain of such pairs links. A set with
    several labels has at least one wrong label.

    Args:
        threshold: largest distance, relative to the median distance to the nearest sample, >= 0.

    Reference: threshold and score are those of cleanlab's Datalab.
    """

    name = "near_duplicate"
    threshold: float = 0.13

    def __post_init__(self) -> None:
        checks.non_negative("threshold", self.threshold)

    def __call__(self, samples: CheckInput) -> CheckResult:
        """Compare each sample with its nearest neighbours."""
        distances = samples.distances.double()
        scale = distances[:, 0].quantile(0.5).clamp_min(torch.finfo(torch.float64).tiny)
        is_pair = distances <= self.threshold * scale
        first, place = is_pair.nonzero(as_tuple=True)
        second = samples.neighbours[first, place]
        sets = _linked(first, second, len(samples))
        is_issue = torch.zeros(len(samples), dtype=torch.bool)
        is_issue[first] = True
        is_issue[second] = True
        return CheckResult(
            is_issue,
            -torch.expm1(-distances[:, 0] / scale),
            {"near_duplicate_set": sets.where(is_issue, -1)},
            list(_sets(sets, is_issue, samples.ranking)),
        )


class DuplicateSet(NamedTuple):
    """Near-duplicates of each other, and their given labels; `text` says so by names."""

    samples: tuple[int, ...]
    labels: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class WeakGroups(Check):
    """Classes and clusters of embeddings whose labels are predicted less often than others.

    Agreement is the share of samples whose given label is the one that the beliefs predict. A
    group is weak if its agreement is certainly below that of all other samples by more than the
    margin. The limits are Wilson's, and for the difference Newcombe's, with Bonferroni's correction
    for all groups. The score of a sample is the agreement of its weakest group, divided by that of
    the others. If the model has learned too little for verdicts on labels, no group is weak.

    There is a group for each given label, and clusters by k-means: one for each 100 samples, 50 at
    most. Either the model or the labels are poor in a weak group.

    Args:
        margin: least difference of agreements, in [0, 1).
        level: confidence level of all limits together, in (0, 1).

    Reference: Newcombe, Interval Estimation for the Difference between Independent Proportions,
        1998 (method 10).
    """

    name = "underperforming_group"
    margin: float = 0.05
    level: float = 0.95

    def __post_init__(self) -> None:
        checks.fraction("margin", self.margin)
        checks.open_share("level", self.level)

    def __call__(self, samples: CheckInput) -> CheckResult:
        """Compare each class and cluster with all other samples."""
        if samples.ranking.caution:
            return CheckResult(torch.zeros(len(samples)).bool(), torch.ones(len(samples)).double())
        given = samples.ranking.given
        agrees = (samples.predicted == given).double()
        partitions = {"class": given, "cluster": _clusters(samples)}
        num_groups = sum(len(members.unique()) for members in partitions.values())
        quantile = float(torch.special.ndtri(torch.tensor(1 - (1 - self.level) / num_groups / 2)))
        score, weakest = torch.ones(len(samples), dtype=torch.float64), []
        for kind, members in partitions.items():
            for index in members.unique().tolist():
                inside = members == index
                name = samples.ranking.class_name(index) if kind == "class" else str(index)
                group = _group(kind, index, name, agrees[inside], agrees[~inside], quantile)
                if group.gap > self.margin:
                    weakest.append(group)
                    score[inside] = score[inside].clamp_max(group.agreement / group.others)
        weakest.sort(key=lambda group: group.agreement)
        return CheckResult(score < 1.0, score, {"cluster": partitions["cluster"]}, weakest)


@dataclass(frozen=True)
class GroupAgreement:
    """Agreement of predictions and labels in a group, with its limits, and among all others.

    `gap` is the lower limit of what the others agree more. `name` is that of a class, if classes
    have names, and otherwise the index.
    """

    kind: str
    index: int
    name: str
    count: int
    agreement: float
    low: float
    high: float
    others: float
    gap: float

    def __str__(self) -> str:
        shares = (self.agreement, self.low, self.high, self.others)
        agreement, low, high, others = (f"{100 * each:.0f}" for each in shares)
        return (
            f"{self.kind} {printable(self.name)}: {agreement} % [{low}, {high}] of {self.count} "
            f"labels predicted, {others} % elsewhere"
        )


CHECKS: tuple[Check, ...] = (WrongLabels(), Outliers(), NearDuplicates(), WeakGroups())
"""The checks of :func:`find_issues`."""


def nearest_samples(points: Tensor, is_cosine: bool) -> tuple[Tensor, Tensor]:
    """Find the nearest other samples, nearest first, and their distances.

    Args:
        points: N >= 2 embeddings; of unit length for cosine distances.
        is_cosine: whether to return half the squared distances.

    Shape:
        - points: (N, D) floating; returns (N, K) int64 and (N, K) on the CPU, K = min(10, N - 1).
    """
    rows = torch.arange(len(points), device=points.device)
    # The product that finds the candidates cancels far from 0; one huge row moves no median.
    wide = points if points.device.type == "mps" else points.double()
    wide = wide - wide.median(0).values
    found = nearest_voters(wide, rows, rows, NEIGHBOURS)
    distances = torch.empty(found.shape, dtype=wide.dtype, device=points.device)
    for block in blocks(rows, found.shape[1] * points.shape[1]):
        between = wide[block].unsqueeze(1) - wide[found[block]]
        distances[block] = between.square().sum(-1)
    distances = distances / 2 if is_cosine else distances.sqrt()
    distances, order = distances.sort(stable=True)
    return found.gather(1, order).cpu(), distances.to(points.dtype).cpu()


def _deviation(distances: Tensor) -> Tensor:
    """Return log distances as standard normal scores of a shifted log-normal distribution."""
    logs = distances.clamp_min(torch.finfo(distances.dtype).tiny).log()
    usual = logs[distances > 0]  # without sets of more equal samples than there are neighbours
    if len(usual) == 0:
        return torch.zeros_like(logs)
    places = (max(1, math.ceil(share * len(usual))) for share in (0.16, 0.5, 0.84))
    low, middle, high = (usual.kthvalue(place).values for place in places)
    above = (high - middle).clamp_min(1e-6)
    # The limit for a skewness of 0 is reached up to rounding.
    skewness = (above / (middle - low).clamp_min(1e-6)).log().clamp(1e-6, MOST_SKEWED)
    growth = torch.expm1(skewness) * (logs - middle) / above
    return growth.clamp_min(-1.0 + 1e-12).log1p() / skewness


def _linked(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Return for each of `count` samples the smallest one that a chain of pairs links it to."""
    smallest = torch.arange(count)
    while True:
        least = smallest[first].minimum(smallest[second])
        linked = smallest.scatter_reduce(0, first, least, "amin")
        linked = linked.scatter_reduce(0, second, least, "amin")
        linked = linked[linked]
        if torch.equal(linked, smallest):
            return smallest
        smallest = linked


def _sets(sets: Tensor, is_issue: Tensor, ranking: LabelRanking) -> Iterator[DuplicateSet]:
    """Yield the sets, by their first samples."""
    rows = is_issue.nonzero().squeeze(1)
    order = rows[sets[rows].argsort(stable=True)]
    _, sizes = sets[order].unique_consecutive(return_counts=True)
    for members in order.split(sizes.tolist()):
        samples, labels = tuple(members.tolist()), tuple(ranking.given[members].tolist())
        shown = labels if len(set(labels)) > 1 else labels[:1]
        text = (
            f"samples {', '.join(map(ranking.sample_name, samples))}: "
            f"label{'s' * (len(shown) > 1)} {', '.join(map(ranking.class_name, shown))}"
        )
        yield DuplicateSet(samples, labels, printable(text))


def _clusters(samples: CheckInput) -> Tensor:
    """Return the cluster of each sample (N,)."""
    count = max(1, min(MOST_CLUSTERS, len(samples) // CLUSTER_SIZE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(samples.seed)
        centers = k_means(samples.points, count)
    rows = torch.arange(len(samples), device=centers.device)
    nearest = [
        torch.cdist(samples.points[block], centers).argmin(1) for block in blocks(rows, count)
    ]
    return torch.cat(nearest).cpu()


def _group(
    kind: str, index: int, name: str, inside: Tensor, outside: Tensor, quantile: float
) -> GroupAgreement:
    """Compare the agreement in a group with that of others; a group of all with its own."""
    agreement, low, high = _wilson(inside, quantile)
    others, least, _ = _wilson(outside if len(outside) else inside, quantile)
    gap = others - agreement - math.hypot(others - least, high - agreement)
    return GroupAgreement(kind, index, name, len(inside), agreement, low, high, others, gap)


def _wilson(agrees: Tensor, quantile: float) -> tuple[float, float, float]:
    """Return the agreement, and Wilson's limits."""
    share = float(agrees.mean())
    square = quantile**2 / len(agrees)
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return share, middle - half, middle + half
