"""What targets know of samples and labels: its parts, questions to it, and how it grows."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

from reliability_balance import checks, numerics
from reliability_balance.core.recipes import get_recipe
from reliability_balance.core.settings import Configured
from reliability_balance.labels.class_shares import ClassShares
from reliability_balance.labels.given_labels import RepeatedCalls, check_label_values, check_labels
from reliability_balance.labels.memorization import Memorization
from reliability_balance.labels.noise_matrix import (
    AnnotatorCounts,
    Counts,
    DenseCounts,
    SparseCounts,
)
from reliability_balance.labels.out_of_sample import OutOfSample, fill_in_old
from reliability_balance.labels.posterior import (
    PosteriorRule,
    as_probabilities,
    one_label_each,
    posterior_of_annotators,
    sharpened_scores,
)
from reliability_balance.labels.ranks import Ranks
from reliability_balance.labels.rows import (
    COUNTED,
    KEPT,
    WHOLE_CLASSES,
    DenseRows,
    make_rows,
    with_rows,
)

ROBUST = get_recipe("robust")
# Former names of tensors, in saved states.
RENAMED = {
    "average": "averages.values",
    "joint": "counts.joint",
    "memorization.residual": "memorization.residuals.values",
    "classes.tilt": "classes.class_bias",
}


def rename_old(state: dict[str, Tensor], prefix: str) -> None:
    """Give saved tensors the names that they have now; one with both names keeps both."""
    for old, new in RENAMED.items():
        if prefix + old in state and prefix + new not in state:
            state[prefix + new] = state.pop(prefix + old)


class TargetState(Configured):
    """State of :class:`labels.RefurbishedTargets`, which documents arguments and buffers."""

    SETTINGS: ClassVar = {
        "num_samples": int,
        "num_classes": int,
        "momentum": float | None,
        "temperature": float,
        "noise_temperature": float,
        "prior_count": float,
        "warmup": int,
        "memory": float,
        "held_back": float,
        "held_for": int,
        "num_annotators": int,
        "annotator_prior": float,
        "kept": int,
    }

    updates: Tensor
    given: Tensor
    remembers: Tensor
    agreement: Tensor

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        *,
        momentum: float | None = ROBUST.momentum,
        temperature: float = ROBUST.temperature,
        noise_temperature: float = ROBUST.noise_temperature,
        prior_count: float = ROBUST.prior_count,
        warmup: int = ROBUST.warmup,
        memory: float = ROBUST.memory,
        held_back: float | None = None,
        held_for: int | None = None,
        num_annotators: int = 0,
        annotator_prior: float = ROBUST.annotator_prior,
        kept: int | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool = True,
        group: "distributed.ProcessGroup | None" = None,
    ) -> None:
        super().__init__()
        checks.at_least("num_samples", num_samples, 1)
        checks.at_least("num_classes", num_classes, 2)
        checks.at_least("warmup", warmup, 0)
        checks.positive("temperature", temperature)
        checks.positive("noise_temperature", noise_temperature)
        checks.non_negative("prior_count", prior_count)
        checks.at_least("num_annotators", num_annotators, 0)
        checks.non_negative("annotator_prior", annotator_prior)
        if momentum is not None:
            checks.fraction("momentum", momentum)
        if held_back is None:
            held_back = ROBUST.held_back if warmup > 1 else 0.0
        checks.fraction("held_back", held_back)
        if held_back and warmup < 2:
            raise ValueError(f"`held_back` needs a `warmup` of at least 2; got {warmup}")
        held_for = warmup if held_for is None else held_for
        checks.at_least("held_for", held_for, 0)
        if held_for > warmup:
            raise ValueError(f"`held_for` must be at most `warmup`, {warmup}; got {held_for}")
        checks.positive("memory", memory)
        if kept is None:
            kept = num_classes if num_classes <= WHOLE_CLASSES else KEPT
        checks.at_least("kept", kept, 1)
        is_whole = kept >= num_classes
        if dtype is None:
            dtype = torch.float32 if is_whole else torch.float16
        if not dtype.is_floating_point:
            raise TypeError(f"`dtype` must be floating; got {dtype}")
        self.num_samples = num_samples
        self.num_classes = num_classes
        self.momentum = momentum
        self.temperature = temperature
        self.noise_temperature = noise_temperature
        self.prior_count = prior_count
        self.warmup = warmup
        self.memory = memory
        self.held_back = held_back
        self.held_for = held_for
        self.num_annotators = num_annotators
        self.annotator_prior = annotator_prior
        self.kept = min(kept, num_classes)
        self.validate_args = validate_args
        self.averages = make_rows(num_samples, num_classes, kept, dtype)
        self.register_buffer("updates", torch.zeros(num_samples, dtype=torch.int32))
        self.register_buffer("remembers", torch.full((), -1, dtype=torch.int8))
        self.register_buffer("given", torch.full((num_samples,), -1, dtype=torch.int32))
        self.register_buffer("agreement", torch.tensor([0.0, -1.0]))
        self._remembers: bool | None = None  # host copy of `remembers`
        self._cohorts = [num_samples]  # numbers of samples that were added at one time
        self._released = 0  # samples before this one are no longer held back
        self._expects = False  # whether all labels are known in advance
        self._calls = RepeatedCalls()
        self._ranks = Ranks(group)
        self._is_compared = False  # whether the state was compared with that of other processes
        # Further values that must be equal in all processes, by name.
        self.plan: dict[str, object] = {}
        self.classes = ClassShares(num_samples, num_classes)
        # Annotators' matrices (A, C, C) need the common one as a whole.
        self.counts: Counts = (
            DenseCounts(num_samples, num_classes)
            if is_whole or num_annotators
            else SparseCounts(num_samples, num_classes, COUNTED * kept)
        )
        self.out_of_sample = OutOfSample(num_samples)
        self.memorization = (
            Memorization(num_samples, num_classes, held_back, kept, dtype) if held_back else None
        )
        self.annotators = (
            AnnotatorCounts(num_annotators, num_classes, annotator_prior)
            if num_annotators
            else None
        )

    @property
    def average(self) -> Tensor:
        """Running averages (N, C); built anew if only the largest are stored."""
        if isinstance(self.averages, DenseRows):
            return self.averages.values
        return self.averages_of(torch.arange(self.num_samples, device=self.updates.device))

    def averages_of(self, index: Tensor) -> Tensor:
        """Return the running averages (B, C) of samples.

        Args:
            index: indices of the samples, (B,) int64.
        """
        return self.averages.read(index, self._class_shares)

    @property
    def joint(self) -> Tensor:
        """J (C, C), the joint distribution of true class and given label."""
        return self.counts.whole(self._class_shares)

    @property
    def noise_matrix(self) -> Tensor:
        """Current estimate of T (C, C): row c is the label distribution of class c."""
        return self.counts.matrix(self._class_shares)

    @property
    def _class_shares(self) -> Tensor:
        """Class shares (C,) of the averages, by which the rest of a row is divided."""
        return self.classes.shares[0]

    @property
    def annotator_matrices(self) -> Tensor | None:
        """Current estimates of T^a (A, C, C), one for each annotator; None without annotators."""
        if self.annotators is None:
            return None
        return self.annotators.matrices(self.noise_matrix, self.num_samples)

    def trust(self, index: Tensor, labels: Tensor) -> Tensor:
        """Return the posterior probability that each label is correct; low values are doubtful.

        Includes classes that the model has barely learned, whose targets are not changed. Of
        several annotators' labels the most frequent one is judged, by the posterior given all of
        them; ties are broken by the posterior.

        Args:
            index: indices of the samples.
            labels: their labels.

        Shape:
            - index: (B,) int64; labels: (B,) int64, (B, C) floating or (B, A) int64; returns (B,)
              in [0, 1]; for a soft label the overlap with the posterior.

        Raises:
            ValueError: if a sample was never seen, or none often enough.
        """
        if self.validate_args and checks.can_read_values():
            unseen = int((self.updates[index] == 0).sum())
            if unseen:
                raise ValueError(
                    f"`index` must name samples that were trained on; got {unseen} unseen"
                )
            self.check_known()
        check_labels(labels, len(index), self.num_classes, self.num_annotators)
        if self.validate_args:
            check_label_values(labels, self.num_classes)
        posterior = self.posterior_rule()(self.beliefs(index), labels)
        judged = as_probabilities(one_label_each(labels, posterior), posterior)
        return posterior.minimum(judged).sum(-1)

    def beliefs(self, index: Tensor) -> Tensor:
        """Return the class probabilities p of samples before their labels are considered.

        Args:
            index: indices of the samples.

        Shape:
            - index: (B,) int64; returns (B, C) float32 or wider, probabilities; for a sample that
              was never seen, softmax(b).
        """
        return self._scores(index).softmax(-1)

    def _scores(self, index: Tensor) -> Tensor:
        """Return the logarithms of the beliefs (B, C), up to a constant for each sample."""
        return self._sharpened(self.averages_of(index))

    def _sharpened(self, average: Tensor) -> Tensor:
        return sharpened_scores(numerics.widen(average), self.temperature, self.classes.class_bias)

    @torch.no_grad()
    def judge_memory(self) -> bool:
        """Decide whether the network memorizes labels, and release the held-back ones.

        If it does, labels are refurbished from now on instead of after the warm-up. Those of
        samples that were added in training remain held back for `held_for` updates. Call it once,
        when samples were seen `held_for` times on average; it synchronizes with the device.
        """
        self.remembers.zero_()
        if self.memorization is not None:
            self.remembers.copy_(self.memorization.log_likelihood_gap() > self.memory)
        self._read_memory()
        return bool(self._remembers)

    @property
    def effective_warmup(self) -> int:
        """Number of updates of a sample after which its label is refurbished."""
        return self.held_for if self._remembers else self.warmup

    def _read_memory(self) -> None:
        """Copy `remembers` to the host, because each step reads it."""
        found = int(self.remembers)
        self._remembers = None if found < 0 else found > 0
        self._released = 0 if found < 0 else self._cohorts[0]

    def _load_from_state_dict(
        self, state_dict: Any, prefix: Any, *args: Any, **options: Any
    ) -> None:
        rename_old(state_dict, prefix)
        if f"{prefix}updates" in state_dict:
            fill_in_old(state_dict, prefix, self.num_samples)
            state_dict.setdefault(f"{prefix}agreement", torch.tensor([0.0, -1.0]))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        self._read_memory()
        self._is_compared = False

    def check_known(self, owner: str = "targets") -> None:
        """Require that a sample was seen often enough to estimate the noise matrix.

        Args:
            owner: what the user calls the holder of these targets, for the error.

        Raises:
            ValueError: if none was.

        Example:
            >>> from reliability_balance.labels import RefurbishedTargets
            >>> RefurbishedTargets(num_samples=100, num_classes=2).check_known()
            Traceback (most recent call last):
            ...
            ValueError: `targets` must have seen samples more than 10 times; got at most 0: ...
        """
        most = int(self.updates.max())
        if most <= self.held_for:
            remedy = "train for longer, or plan for fewer epochs" if most else "train first"
            raise ValueError(
                f"`{owner}` must have seen samples more than {self.held_for} times; got at most "
                f"{most}: {remedy}"
            )

    def add_samples(self, count: int) -> None:
        """Append samples to the training set; what was learned of the others stays.

        The new samples have the indices from `num_samples` on, and a warm-up of their own. The same
        share of their labels is held back for `held_for` updates. The state of
        :class:`labels.RobustLoss` remembers that, the state of the targets alone does not. All
        processes must add as many.

        Args:
            count: number of samples, >= 1. Their labels are known from their first call on, or by
                ``expect``.

        Raises:
            TypeError: if `count` is not an int.
            ValueError: if it is below 1.

        Example:
            >>> from reliability_balance.labels import RefurbishedTargets
            >>> targets = RefurbishedTargets(num_samples=100, num_classes=2)
            >>> targets.add_samples(20)
            >>> targets.num_samples, targets.beliefs(torch.tensor([119])).shape
            (120, torch.Size([1, 2]))
        """
        checks.at_least("count", count, 1)
        if bool(self.updates[-self._cohorts[-1] :].any()):
            self._cohorts.append(0)
        self._cohorts[-1] += count
        self.averages.add_samples(count)
        self.counts.add_samples(count)
        self.classes.add_samples(count)
        self.out_of_sample.add_samples(count)
        if self.memorization is not None:
            self.memorization.add_samples(count)
        if self.annotators is not None:
            self.annotators.add_samples(self.num_samples, count)
        self.updates = with_rows(self.updates, count)
        self.given = with_rows(self.given, count, -1)
        self.num_samples += count
        self._expects = False

    @property
    def cohorts(self) -> list[Tensor]:
        """Indices of the samples known from the start, and of those added at each later time."""
        return list(torch.arange(self.num_samples, device=self.updates.device).split(self._cohorts))

    def add_classes(self, count: int) -> None:
        """Append classes; what was learned of the others stays.

        The new classes have probability 0 in earlier averages, and the rows and columns of the
        initial J. If all classes are stored of a sample, this holds for the new ones too.

        Args:
            count: number of classes, >= 1.

        Raises:
            TypeError: if `count` is not an int.
            ValueError: if it is below 1.

        Example:
            >>> from reliability_balance.labels import RefurbishedTargets
            >>> targets = RefurbishedTargets(num_samples=100, num_classes=2)
            >>> targets.add_classes(1)
            >>> targets.noise_matrix.shape
            torch.Size([3, 3])
        """
        checks.at_least("count", count, 1)
        self.averages.add_classes(count)
        self.counts.add_classes(count)
        self.classes.add_classes(count)
        if self.memorization is not None:
            self.memorization.add_classes(count)
        if self.annotators is not None:
            self.annotators.add_classes(count)
        if isinstance(self.averages, DenseRows):
            self.kept += count
        self.num_classes += count

    def _memorization_groups(
        self, index: Tensor, updates: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return masks (B, 1) of shown and of held-back labels, to measure memorization.

        None once all held-back labels are released. Those of samples that were added in training
        are held back for `held_for` updates.
        """
        if self.memorization is None or self._released == self.num_samples:
            return None, None
        early = updates <= self.held_for
        if self._released:
            early &= (index >= self._released).unsqueeze(-1)
        held = early & self.memorization.control[index].unsqueeze(-1)
        return early ^ held, held

    def posterior_rule(self) -> PosteriorRule:
        """Return the function from beliefs and labels to posteriors (B, C), without checks."""
        matrices = self.annotator_matrices
        if matrices is None:
            return self.counts.rule(self._class_shares)
        return partial(posterior_of_annotators, noise_matrices=matrices)
