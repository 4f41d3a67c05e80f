"""Prediction sets: sets of classes that contain the true one with a given probability."""

from itertools import count
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance.calibration.conformal import (
    aps_scores,
    conformal_quantile,
    lac_scores,
    quantile_rank,
    raps_scores,
)
from reliability_balance.core.settings import Configured

Score = Literal["lac", "aps", "raps"]


class _ConformalSets(Configured):
    """What all prediction sets share: settings, scores, and checks of held-out data.

    The arguments are those of :class:`PredictionSets`, and the shape of the thresholds.
    """

    SETTINGS: ClassVar[dict[str, Any]] = {
        "coverage": float,
        "score": str,
        "penalty": float | None,
        "free_ranks": int | None,
    }
    FITTED = ("threshold",)

    threshold: Tensor

    def __init__(
        self,
        thresholds: tuple[int, ...],
        coverage: float,
        score: Score,
        penalty: float | None,
        free_ranks: int | None,
    ) -> None:
        super().__init__()
        checks.open_share("coverage", coverage)
        checks.one_of("score", score, ("lac", "aps", "raps"))
        for name, value in (("penalty", penalty), ("free_ranks", free_ranks)):
            if (value is None) is (score == "raps"):
                needed = "be given with" if value is None else "not be given without"
                raise ValueError(f"`{name}` must {needed} score='raps'; got {value} with {score!r}")
        if penalty is not None:
            checks.non_negative("penalty", penalty)
        if free_ranks is not None:
            checks.at_least("free_ranks", free_ranks, 0)
        self.coverage, self.score = coverage, score
        self.penalty, self.free_ranks = penalty, free_ranks
        self.register_buffer("threshold", torch.full(thresholds, torch.nan))

    def _scores(self, log_probs: Tensor, generator: Generator | None) -> Tensor:
        """Return the score (..., C) of each class; "aps" and "raps" draw from the generator."""
        if self.score == "lac":
            return lac_scores(log_probs)
        shape = log_probs.shape[:-1]
        # torch.rand cannot be exported with a dynamic batch and a generator.
        uniform = torch.empty(shape, device=log_probs.device).uniform_(generator=generator)
        if self.penalty is None or self.free_ranks is None:
            return aps_scores(log_probs, uniform)
        return raps_scores(log_probs, uniform, penalty=self.penalty, free_ranks=self.free_ranks)

    def _held_out_scores(
        self, log_probs: Tensor, labels: Tensor, generator: Generator | None
    ) -> Tensor:
        """Check held-out data, and return the scores (N,) of their true classes."""
        checks.distributions("log_probs", log_probs)
        checks.rank("log_probs", log_probs, "(N, C)", 2)
        checks.scores("log_probs", log_probs)
        checks.log_probability_values("log_probs", log_probs)
        checks.indices("labels", labels)
        checks.labels(labels, log_probs.shape[:1], log_probs.shape[-1])
        checks.label_values(labels, log_probs.shape[-1])
        return self._scores(log_probs, generator).gather(-1, labels.unsqueeze(-1)).squeeze(-1)

    def _fit_each(self, kind: str, scores: Tensor, categories: Tensor) -> None:
        """Set each category's threshold from its own scores (N,)."""
        counts = categories.bincount(minlength=len(self.threshold)).tolist()
        parts = scores[categories.argsort()].split(counts)
        self.threshold.copy_(torch.stack([conformal_quantile(p, self.coverage) for p in parts]))
        scarce = [each for each, n in enumerate(counts) if quantile_rank(n, self.coverage) > n]
        if scarce:
            listed = checks.listed(f"{counts[each]} of {kind} {each}" for each in scarce)
            checks.warn(
                f"coverage={self.coverage} needs more held-out samples of each {kind}; got "
                f"{listed}: their thresholds are infinite"
            )


class PredictionSets(_ConformalSets):
    r"""Sets of classes that contain the true one with given probability (split conformal).

    .. math:: S(x) = \{c : s_c(x) \le q\}

    where q is the ceil((N + 1) coverage)-th smallest of the N held-out scores s_y. For data
    exchangeable with the held-out data, the set contains the true class with probability
    `coverage` at least, on average over all data. Coverage is marginal: it may be lower for a rare
    class. :class:`ClassPredictionSets` and :class:`GroupPredictionSets` guarantee it for each class
    and each group.

    Scores:
        - "lac": -log p_c. The smallest sets on average; they may be empty.
        - "aps": the probability mass of the classes above c, plus a uniformly drawn share of p_c.
          Sets grow with the ambiguity of the sample, so that hard samples are covered better, but
          they are larger. The draw makes coverage exact; sets may be empty.
        - "raps": "aps" plus `penalty` for each rank of c beyond `free_ranks`. Cuts the long tails
          of "aps" where there are many classes.

    Args:
        coverage: probability with which a set contains the true class, in (0, 1).
        score: "lac", "aps" or "raps".
        penalty: of "raps", >= 0; required there, else None. The paper uses 0.01 on ImageNet.
        free_ranks: of "raps", >= 0; required there, else None. The paper uses 5 on ImageNet.

    Shape:
        - log_probs: (..., C) floating log-probabilities; returns (..., C) bool, the set's members.

    State:
        ``threshold`` (), the q above, a buffer; NaN until fitted, and infinite (all classes) if
        there were too few samples for any finite threshold.

    Raises:
        RuntimeError: if they are not fitted.
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    References: "lac": Sadinle et al., JASA 2019, https://arxiv.org/abs/1609.00451. "aps": Romano et
        al., NeurIPS 2020, https://arxiv.org/abs/2006.02544. "raps": Angelopoulos et al., ICLR 2021,
        https://arxiv.org/abs/2009.14193.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]).log()
        >>> sets = PredictionSets(coverage=0.5).fit(log_probs, torch.tensor([0, 0, 0]))
        >>> sets(torch.tensor([[0.85, 0.15], [0.5, 0.5]]).log())
        tensor([[ True, False],
                [False, False]])
    """

    def __init__(
        self,
        coverage: float = 0.9,
        *,
        score: Score = "lac",
        penalty: float | None = None,
        free_ranks: int | None = None,
    ) -> None:
        super().__init__((), coverage, score, penalty, free_ranks)

    def forward(self, log_probs: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Return which classes each set contains.

        Args:
            log_probs: log-probabilities.
            generator: for the draws of "aps" and "raps"; None: torch's default generator.

        Raises:
            RuntimeError: if they are not fitted.
        """
        checks.fitted("the sets are", self.threshold)
        scores = self._scores(log_probs, generator)
        return scores <= self.threshold.to(scores.dtype)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor, *, generator: Generator | None = None) -> Self:
        """Find the threshold.

        Args:
            log_probs: held-out log-probabilities, which nothing else was fitted on.
            labels: their class indices.
            generator: for the draws of "aps" and "raps"; None: torch's default generator.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or rows that are not log-probabilities.

        Warns:
            UserWarning: if there are too few samples for a finite threshold.
        """
        scores = self._held_out_scores(log_probs, labels, generator)
        self.threshold.copy_(conformal_quantile(scores, self.coverage))
        if quantile_rank(len(scores), self.coverage) > len(scores):
            needed = next(n for n in count(1) if quantile_rank(n, self.coverage) <= n)
            checks.warn(
                f"`coverage` = {self.coverage} needs at least {needed} held-out samples; got "
                f"{len(scores)}: every set contains every class"
            )
        return self


class ClassPredictionSets(_ConformalSets):
    r"""Prediction sets with the same coverage for each class, by a threshold of its own.

    .. math:: S(x) = \{c : s_c(x) \le q_c\}

    where q_c is the conformal quantile of the held-out samples of class c. Samples of each class
    are covered with probability `coverage` at least, so coverage holds for any class frequencies,
    also for other ones than the held-out data have. Rare classes cost: with n samples of a class,
    its coverage over future samples varies between held-out sets by a standard deviation of about
    sqrt(coverage (1 - coverage) / n), and below coverage / (1 - coverage) samples its threshold is
    infinite: every set contains that class.

    Args:
        num_classes: C.
        coverage: probability with which a set contains the true class, in (0, 1).
        score: "lac", "aps" or "raps", as in :class:`PredictionSets`.
        penalty: of "raps", >= 0; required there, else None.
        free_ranks: of "raps", >= 0; required there, else None.

    Shape:
        - log_probs: (..., C) floating log-probabilities; returns (..., C) bool, the set's members.

    State:
        ``threshold`` (C,), a buffer; NaN until fitted, infinite for classes with too few samples.

    Raises:
        RuntimeError: if they are not fitted.
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Vovk, Conditional Validity of Inductive Conformal Predictors, ACML 2012,
        https://arxiv.org/abs/1209.2673 (label-conditional, or Mondrian, prediction).

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]).log()
        >>> sets = ClassPredictionSets(2, coverage=0.5).fit(log_probs, torch.tensor([0, 0, 1]))
        >>> sets.threshold.neg().exp()
        tensor([0.6000, 0.8000])
    """

    SETTINGS: ClassVar = {"num_classes": int, **_ConformalSets.SETTINGS}

    def __init__(
        self,
        num_classes: int,
        coverage: float = 0.9,
        *,
        score: Score = "lac",
        penalty: float | None = None,
        free_ranks: int | None = None,
    ) -> None:
        checks.at_least("num_classes", num_classes, 2)
        super().__init__((num_classes,), coverage, score, penalty, free_ranks)
        self.num_classes = num_classes

    def forward(self, log_probs: Tensor, *, generator: Generator | None = None) -> Tensor:
        """Return which classes each set contains.

        Args:
            log_probs: log-probabilities.
            generator: for the draws of "aps" and "raps"; None: torch's default generator.

        Raises:
            RuntimeError: if they are not fitted.
        """
        checks.width("log_probs", log_probs, len(self.threshold))
        checks.fitted("the sets are", self.threshold)
        scores = self._scores(log_probs, generator)
        return scores <= self.threshold.to(scores.dtype)

    @torch.no_grad()
    def fit(self, log_probs: Tensor, labels: Tensor, *, generator: Generator | None = None) -> Self:
        """Find the thresholds.

        Args:
            log_probs: held-out log-probabilities, which nothing else was fitted on.
            labels: their class indices.
            generator: for the draws of "aps" and "raps"; None: torch's default generator.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or rows that are not log-probabilities.

        Warns:
            UserWarning: if classes have too few samples for a finite threshold.
        """
        scores = self._held_out_scores(log_probs, labels, generator)
        checks.width("log_probs", log_probs, len(self.threshold))
        self._fit_each("class", scores, labels)
        return self


class GroupPredictionSets(_ConformalSets):
    r"""Prediction sets with the same coverage for each group of samples, by thresholds of its own.

    .. math:: S(x) = \{c : s_c(x) \le q_{g(x)}\}

    where q_g is the conformal quantile of the held-out samples of group g: a camera, a hospital, an
    age. The group of each sample must be known when it is predicted. Samples of each group are
    covered with probability `coverage` at least, on average over the classes. Groups with fewer
    than coverage / (1 - coverage) held-out samples have an infinite threshold: their sets contain
    every class.

    Args:
        num_groups: G.
        coverage: probability with which a set contains the true class, in (0, 1).
        score: "lac", "aps" or "raps", as in :class:`PredictionSets`.
        penalty: of "raps", >= 0; required there, else None.
        free_ranks: of "raps", >= 0; required there, else None.

    Shape:
        - log_probs: (B, C) floating log-probabilities; groups: (B,) int64 in [0, G); returns (B, C)
          bool, the set's members.

    State:
        ``threshold`` (G,), a buffer; NaN until fitted, infinite for groups with too few samples.

    Raises:
        RuntimeError: if they are not fitted.
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Reference: Vovk, Conditional Validity of Inductive Conformal Predictors, ACML 2012,
        https://arxiv.org/abs/1209.2673.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]).log()
        >>> groups = torch.tensor([0, 0, 1])
        >>> sets = GroupPredictionSets(2, coverage=0.5)
        >>> sets.fit(log_probs, torch.tensor([0, 0, 1]), groups).threshold.neg().exp()
        tensor([0.6000, 0.8000])
        >>> sets(log_probs, groups)[2]
        tensor([False,  True])
    """

    SETTINGS: ClassVar = {"num_groups": int, **_ConformalSets.SETTINGS}

    def __init__(
        self,
        num_groups: int,
        coverage: float = 0.9,
        *,
        score: Score = "lac",
        penalty: float | None = None,
        free_ranks: int | None = None,
    ) -> None:
        checks.at_least("num_groups", num_groups, 1)
        super().__init__((num_groups,), coverage, score, penalty, free_ranks)
        self.num_groups = num_groups

    def forward(
        self, log_probs: Tensor, groups: Tensor, *, generator: Generator | None = None
    ) -> Tensor:
        """Return which classes each set contains.

        Args:
            log_probs: log-probabilities.
            groups: the group of each sample.
            generator: for the draws of "aps" and "raps"; None: torch's default generator.

        Raises:
            RuntimeError: if they are not fitted.
        """
        checks.distributions("log_probs", log_probs)
        checks.rank("log_probs", log_probs, "(B, C)", 2)
        self._check_groups(groups, log_probs)
        checks.fitted("the sets are", self.threshold)
        scores = self._scores(log_probs, generator)
        return scores <= self.threshold.to(scores.dtype)[groups].unsqueeze(-1)

    @torch.no_grad()
    def fit(
        self,
        log_probs: Tensor,
        labels: Tensor,
        groups: Tensor,
        *,
        generator: Generator | None = None,
    ) -> Self:
        """Find the thresholds.

        Args:
            log_probs: held-out log-probabilities, which nothing else was fitted on.
            labels: their class indices.
            groups: the group of each sample.
            generator: for the draws of "aps" and "raps"; None: torch's default generator.

        Shape:
            - log_probs: (N, C) floating; labels: (N,) int64; groups: (N,) int64.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or rows that are not log-probabilities.

        Warns:
            UserWarning: if groups have too few samples for a finite threshold.
        """
        scores = self._held_out_scores(log_probs, labels, generator)
        self._check_groups(groups, log_probs)
        self._fit_each("group", scores, groups)
        return self

    def _check_groups(self, groups: Tensor, log_probs: Tensor) -> None:
        checks.indices("groups", groups)
        if groups.shape != log_probs.shape[:1]:
            raise ValueError(
                f"`groups` must have one entry for each of {len(log_probs)} samples; "
                f"got {len(groups)}"
            )
        checks.index_values("groups", groups, len(self.threshold))
