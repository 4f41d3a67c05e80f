"""Refurbished training targets, by a noise matrix that is estimated during training."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.core.recipes import get_recipe
from reliability_balance.core.settings import Configured
from reliability_balance.labels import annotators
from reliability_balance.labels.class_shares import ClassShares
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
    _annotator_posterior,
    _one_label_each,
    as_probabilities,
    sharpened_scores,
    towards_,
)
from reliability_balance.labels.ranks import (
    Ranks,
    SampleOrder,
    is_distributed,
    mean_of_repeated,
    sort_samples,
)
from reliability_balance.labels.rows import (
    COUNTED,
    KEPT,
    WHOLE_CLASSES,
    DenseRows,
    Parts,
    make_rows,
    with_rows,
)

ROBUST = get_recipe("robust")
# Labels are compared by a code, their mean class on an uneven scale; soft ones differ by rounding.
CODE_STEPS, CODE_TOLERANCE = 1024, 8
GOLDEN = 0.6180339887
# Former names of tensors, in saved states.
RENAMED = {
    "average": "averages.values",
    "joint": "counts.joint",
    "memorization.residual": "memorization.residuals.values",
    "classes.tilt": "classes.class_bias",
}


def _places(classes: Tensor) -> Tensor:
    """Return the codes of classes, of any shape.

    Steps are uneven, so that half of each of two classes is not the class between them.
    """
    classes = classes.float()
    return CODE_STEPS * (classes + 0.5 * (GOLDEN * classes).frac())


def _differing(before: Tensor, codes: Tensor) -> Tensor:
    """Return where (B,) label codes differ from earlier ones; -1 stands for no earlier label."""
    return (before >= 0) & ((before - codes).abs() > CODE_TOLERANCE)


def rename_old(state: dict[str, Tensor], prefix: str) -> None:
    """Give saved tensors the names that they have now."""
    for old, new in RENAMED.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)


def _with_held(targets: Tensor, held: Tensor | None, probs: Tensor) -> Tensor:
    """Replace targets (B, C) by predictions where labels are held back, (B, 1); None: nowhere."""
    if held is None:
        return targets
    return targets.lerp_(probs.to(targets.dtype), held.to(targets.dtype))  # faster than `where`


class RefurbishedTargets(Configured):
    r"""Soft training targets from each sample's label and the model's past predictions.

    Each call updates the running averages of the samples' predictions and returns the targets of
    the batch: the given labels during the warm-up, afterwards the
    :func:`labels.label_posterior` of the sharpened average p (label refurbishment). The noise
    matrix T is estimated in training by expectation maximisation, from these posteriors and the
    labels; the noise rate need not be known:

    .. math:: p = \mathrm{softmax}(\log \bar p / \tau + b), \quad
        J_{ck} \gets (1 - B/N) \, J_{ck} + B/N \, \mathrm{mean}_B \, q'_c y_k, \quad
        T_{ck} = J_{ck} / \sum_k J_{ck}

    For soft labels, labels k count in proportion to T_ck y_k. J_ck is capped at J_cc, because two
    classes could be swapped otherwise. q' is the posterior of p sharpened once more,
    softmax(log p / tau'): where wrong labels fall on similar classes, the model is undecided, and
    only sharper predictions separate wrong from correct labels. As targets they would be
    overconfident.

    Sharpening (tau < 1) is needed: a model trained on noisy labels is underconfident, which T alone
    cannot distinguish from clean but ambiguous labels. Sharpening shrinks the hardest classes, so
    the class bias b is updated until each class has the same share in p as in the averages.

    With clean labels T approaches the identity and the targets stay the labels. Where one class is
    often labelled as another, only such labels are changed.

    **Memorization.** In a long training, a network memorizes wrong labels, and its predictions are
    no longer independent of them. With `held_back`, the labels of that share of the samples are
    held back at first; their targets are the model's own predictions. The gap in log-likelihood
    between shown and held-back labels measures memorization, which is removed from each prediction
    before it is averaged:

    .. math:: \tilde p_t = \mathrm{softmax}\Big(\log p_t - \kappa \sum_{s<t} (q_s - p_s)\Big)

    Before memorization sets in, refurbishing labels only reinforces the model's mistakes. So labels
    are refurbished after `warmup`, and earlier only if memorization exceeds `memory` when the
    held-back labels are released.

    **Classes not yet learned.** A model that has not learned a class would reject all its labels
    and never learn it. So the weight w of the posterior against the label y, in targets and in J,
    grows with the number m_k of samples of the class that the model has learned to distinguish:

    .. math:: q \gets w q + (1 - w) y, \quad w = \sum_k y_k \frac{m_k}{m_k + a}, \quad
        m_k = \frac{N \, \mathrm{Var}(p_k)}{1 - \mathrm{mean}(p_k)}

    **Several annotators.** With `num_annotators`, each annotator a has a noise matrix T^a. It is
    estimated in the same way and shrunk to the common T where they gave few labels. The posterior
    is :func:`labels.annotator_posterior` given all labels of a sample. Elsewhere, and in the
    estimate of T, the vote shares replace the label y.

    :class:`RobustLoss` creates and calls these targets. The defaults are those it uses for 20
    epochs or more.

    Args:
        num_samples: N, the size of the training set; samples are identified by their index in it.
        num_classes: C.
        momentum: momentum of the averages, in [0, 1); None: plain mean of all predictions.
        temperature: tau, > 0; below 1 sharpens.
        noise_temperature: tau', > 0; 1: no further sharpening to estimate T.
        prior_count: a, the number of learned samples of a class at which the posterior has weight
            1/2 against the label, >= 0; 0: weight 1 for all classes.
        warmup: updates of a sample before its label is refurbished, >= 0.
        memory: threshold of memorization, in nats, > 0. If the log-likelihood of shown labels
            exceeds that of held-back ones by more when these are released, labels are refurbished
            from then on.
        held_back: share of the samples whose labels are held back, in [0, 1); 0: no correction for
            memorization. Needs a warm-up of 2 or more. None: that of the robust recipe if the
            warm-up allows it, else 0.
        held_for: updates of a sample for which its label is held back, and before it counts for T,
            in [0, warmup]; None: the whole warm-up.
        num_annotators: A, the number of annotators; 0: one label for each sample.
        annotator_prior: number of labels of a class at which an annotator's matrix is half their
            own and half the common one, >= 0.
        kept: number of classes that each sample's average and residual are stored of; the others
            share their sum by the class shares. Of a column of J twice as many are stored, except
            with annotators. None: all of up to 32 classes, else 15.
        dtype: dtype of the numbers stored for each sample; None: ``torch.float32``, and
            ``torch.float16`` where only the largest are stored.
        validate_args: check values, which synchronizes with the device.
        group: process group that trains together; None: all processes. With a group, targets cannot
            be copied or pickled.

    Shape:
        - index: (B,) int64 in [0, N); labels: (B,) int64 or (B, C) floating, with `num_annotators`
          (B, A) int64, -1 where an annotator gave none; probs: (B, C) floating probabilities,
          without gradient; returns (B, C) float32 or wider.

    State:
        ``averages``, rows of the running averages; ``updates`` (N,) int32; ``given`` (N,) int32,
        codes that detect changed labels; ``remembers`` () int8, whether memorization was measured,
        -1 if not known yet; ``agreement`` (2,), Cohen's kappa of first predictions and labels and
        its standard error, which is -1 if :func:`labels.inspect_embeddings` did not measure them;
        ``counts``, which hold J above; ``classes``, whose ``class_bias`` is b;
        ``memorization``, whose ``strength`` is kappa; ``annotators``, whose ``joint`` (A, C, C) is
        J of each annotator. Save the module with the model.

        With N = 1,280,000 and C = 1,000 this is 0.25 GB.

        In distributed training each rank computes the targets of its own batch. Then all exchange
        what is stored of each sample and the sums of the shared statistics, so every rank holds the
        same state, to the bit; that of 14,000,000 samples takes 3 GB with any C above 32. Save it
        on one rank; training may go on with another number of ranks. The ranks follow one process
        up to rounding; where only the largest classes are stored, J also misses what is small in
        both J and the prediction.

        All ranks must have the same settings and make equally many calls, with batches of any size,
        empty ones when a rank has run out; otherwise all of them raise an error. Keep the module
        outside DistributedDataParallel, which would broadcast the buffers of rank 0.

        A sample that occurs several times in a call counts as one update, by its mean. If it occurs
        on several ranks, the row of the first of them is stored.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong sizes, shapes or values.

    Differs from paper: not in it. Averages of the model's own predictions are used as targets by
    Liu et al., NeurIPS 2020 (https://arxiv.org/abs/2007.00151).

    Example:
        >>> targets = RefurbishedTargets(100, num_classes=2, warmup=1, prior_count=0.0)
        >>> index, labels = torch.tensor([7, 9]), torch.tensor([0, 1])
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
        >>> targets(index, labels, probs)  # still the labels
        tensor([[1., 0.],
                [0., 1.]])
        >>> targets(index, labels, probs)
        tensor([[0.9915, 0.0085],
                [0.7706, 0.2294]])
    """

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
        self._first = num_samples  # number of samples known from the start
        self._released = 0  # samples before this one are no longer held back
        self._expects = False  # whether all labels are known in advance
        self._calls = RepeatedCalls()
        self._ranks = Ranks(group)
        self._is_compared = False  # whether the state was compared with that of other processes
        self._equations = _equations()
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

    @torch.no_grad()
    def forward(
        self, index: Tensor, labels: Tensor, probs: Tensor, *, update: bool = True
    ) -> Tensor:
        """Update the state with the predictions of one batch and return its targets.

        Args:
            index: index of each sample in the training set.
            labels: labels of the samples, the same in every epoch.
            probs: predictions of the model.
            update: False for a second forward pass on the same samples in one step, as by SAM:
                the targets follow from the current state, which is not changed, and processes do
                not communicate.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, if `index` holds the labels, if a label differs
                from an earlier one, and if each of several batches comes more than once in a row.
            RuntimeError: if another process rejected its batch, has other settings or another
                state, is at another call, or has ended.
        """
        gathers = update and is_distributed()
        counts = self._synchronize(index, labels, probs) if gathers else []
        if not gathers:
            self._check(index, labels, probs)
        if not update:
            given = self._given(labels, probs)
            updates = self.updates[index].unsqueeze(-1)
            scores = self._scores(index)
            beliefs = RF._softmax(scores)
            targets, _ = self._posteriors(scores, beliefs, labels, given, updates)
            _, held = self._memorization_groups(index, updates)
            return _with_held(targets, held, probs)
        is_alone = len(counts) < 2
        order = sort_samples(index)
        follow, store = self._equations
        targets, rows, sums = follow(self, index, labels, probs, order.place, is_alone=is_alone)
        if not is_alone:
            rows, sums = self._ranks.exchange(counts, rows, sums)
            order = sort_samples(rows["samples"][0])
        samples, codes, _ = rows["samples"]
        self._record_labels(samples, order, codes)
        store(self, rows, sums, order, is_alone=is_alone)
        return targets

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the equations, by ``torch.compile`` with these arguments.

        Checks and communication are not compiled. A copy of the targets is not compiled.
        """
        follow, store = _equations()
        self._equations = (
            torch.compile(follow, *args, **options),
            torch.compile(store, *args, **options),
        )

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions cannot be pickled.
        return {**super().__getstate__(), "_equations": _equations()}  # type: ignore[no-untyped-call]

    def _follow(
        self, index: Tensor, labels: Tensor, probs: Tensor, place: Tensor | None, *, is_alone: bool
    ) -> tuple[Tensor, dict[str, Parts], dict[str, Parts]]:
        """Return the targets of this process's batch, and what to store of it.

        That is rows for its samples, and sums over them; nothing is changed yet.
        """
        rows: dict[str, Parts] = {}
        sums: dict[str, Parts] = {}
        given = self._given(labels, probs)
        memorization = self.memorization
        if memorization is None:
            residual, debiased = None, probs
        else:
            residual = memorization.residuals.read(index, self._class_shares)
            debiased = memorization.debias(residual, probs)
        updates = self.updates[index] + 1
        rows["samples"] = index, self._codes(labels), updates
        updates = updates.unsqueeze(-1)
        average = self._updated_average(index, updates, mean_of_repeated(place, debiased))
        # The residual is stored of the same classes, to find the largest only once.
        classes = self.averages.largest(average, labels if labels.ndim == 1 else given.argmax(-1))
        average, rows["averages"] = self.averages.compress(average, classes)
        rows["classes"] = (classes.int(),)
        scores = self._sharpened(average)
        beliefs = RF._softmax(scores)
        targets, counted = self._posteriors(scores, beliefs, labels, given, updates)
        known = updates > self.held_for
        counted.mul_(known)
        rows["counts"], sums["counts"] = self.counts.collect(
            counted, labels, given, self._class_shares, None if is_alone else classes
        )
        if self.annotators is not None:
            sums["annotators"] = self.annotators.collect(counted, labels, self.num_samples)
        sums["classes"] = (self.classes.collect(average, beliefs, known),)
        shown, held = self._memorization_groups(index, updates)
        targets = _with_held(targets, held, probs)
        if held is not None:
            rows["out of sample"] = self.out_of_sample.compress(index, average, held)
        if memorization is not None and residual is not None:
            if shown is not None and held is not None:
                strength = memorization.collect(residual, given, debiased, shown, held)
                sums["memorization"] = (strength,)
            excess = self.averages.entries(targets, classes) - self.averages.entries(probs, classes)
            excess = mean_of_repeated(place, excess)
            rows["residuals"] = memorization.with_excess(residual, excess, classes)
        return targets, rows, sums

    def _store(
        self,
        rows: dict[str, Parts],
        sums: dict[str, Parts],
        order: SampleOrder,
        *,
        is_alone: bool,
    ) -> None:
        """Store what :meth:`_follow` found, of all processes.

        Of a sample in the batches of several processes, the first one's row is stored.
        """
        index, _, updates = rows["samples"]
        (classes,) = rows["classes"]
        self.counts.add(
            rows["counts"], sums["counts"], self._class_shares, None if is_alone else classes
        )
        if self.annotators is not None:
            self.annotators.add(*sums["annotators"])
        self.classes.add(*sums["classes"])
        first = None if is_alone else order.first
        if first is not None:
            rows = {name: tuple(each[first] for each in parts) for name, parts in rows.items()}
        self.updates[index] = updates
        (classes,) = rows["classes"]
        self.averages.store(index, rows["averages"], classes)
        if "out of sample" in rows:
            self.out_of_sample.store(index, rows["out of sample"])
        if self.memorization is not None:
            self.memorization.residuals.store(index, rows["residuals"], classes)
            if "memorization" in sums:
                self.memorization.add(*sums["memorization"])

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
        self._check_labels(labels, len(index))
        if self.validate_args:
            self._check_label_values(labels)
        posterior = self._posterior_rule()(self.beliefs(index), labels)
        judged = as_probabilities(_one_label_each(labels, posterior), posterior)
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
        return sharpened_scores(RF.widen(average), self.temperature, self.classes.class_bias)

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
    def _effective_warmup(self) -> int:
        """Number of updates of a sample after which its label is refurbished."""
        return self.held_for if self._remembers else self.warmup

    def _read_memory(self) -> None:
        """Copy `remembers` to the host, because each step reads it."""
        found = int(self.remembers)
        self._remembers = None if found < 0 else found > 0
        self._released = 0 if found < 0 else self._first

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

    def samples_met(self, own: int) -> int:
        """Return how many samples all processes gave in the last call; `own`: this process's."""
        return self._ranks.samples if is_distributed() else own

    def check_known(self) -> None:
        """Require that a sample was seen often enough to estimate the noise matrix.

        Raises:
            ValueError: if none was.

        Example:
            >>> RefurbishedTargets(num_samples=100, num_classes=2).check_known()
            Traceback (most recent call last):
            ...
            ValueError: `targets` must have seen samples more than 10 times; got at most 0: ...
        """
        self._check_known("targets")

    def _check_known(self, owner: str) -> None:
        """As :meth:`check_known`; `owner` is what the user calls the holder of these targets."""
        most = int(self.updates.max())
        if most <= self.held_for:
            remedy = "train for longer, or plan for fewer epochs" if most else "train first"
            raise ValueError(
                f"`{owner}` must have seen samples more than {self.held_for} times; got at most "
                f"{most}: {remedy}"
            )

    def expect(self, labels: Tensor) -> None:
        """Declare the labels of all samples, so that the first call already rejects other ones.

        Args:
            labels: all N labels, as trained on.

        Shape:
            - labels: (N,) int64 or (N, C) floating, with `num_annotators` (N, A) int64.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on a wrong shape or values.
        """
        self._check_labels(labels, self.num_samples)
        if self.annotators is None:
            checks.label_values(labels, self.num_classes)
        else:
            annotators.check_all(labels, self.num_classes)
        self.given.copy_(self._codes(labels))
        self._expects = True

    def add_samples(self, count: int) -> None:
        """Append samples to the training set; what was learned of the others stays.

        The new samples have the indices from `num_samples` on, and a warm-up of their own. The same
        share of their labels is held back for `held_for` updates; the state of :class:`RobustLoss`
        remembers that, the state of the targets alone does not. All processes must add as many.

        Args:
            count: number of samples, >= 1. Their labels are known from their first call on, or by
                :meth:`expect`.

        Raises:
            TypeError: if `count` is not an int.
            ValueError: if it is below 1.

        Example:
            >>> targets = RefurbishedTargets(num_samples=100, num_classes=2)
            >>> targets.add_samples(20)
            >>> targets.num_samples, targets.beliefs(torch.tensor([119])).shape
            (120, torch.Size([1, 2]))
        """
        checks.at_least("count", count, 1)
        if not bool(self.updates.any()):
            self._first += count
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

    def check_given(self, index: Tensor, labels: Tensor) -> None:
        """Require the labels that the samples were trained on.

        Args:
            index: indices of the samples; a sample that was never seen may have any label.
            labels: their labels.

        Shape:
            - index: (B,) int64; labels: (B,) int64 or (B, C) floating, with `num_annotators` (B, A)
              int64.

        Raises:
            ValueError: on other labels.

        Example:
            >>> targets = RefurbishedTargets(num_samples=100, num_classes=2)
            >>> _ = targets(torch.tensor([7]), torch.tensor([0]), torch.tensor([[0.9, 0.1]]))
            >>> targets.check_given(torch.tensor([7]), torch.tensor([1]))
            Traceback (most recent call last):
            ...
            ValueError: `labels` must be those ...; got other labels for 1 of 1 samples, ...
        """
        checks.indices("index", index)
        self._check_labels(labels, len(index))
        self._check_unchanged(index, self.given[index], self._codes(labels))

    def check_ranks(self) -> None:
        """Require that all processes have made equally many calls, at the end of an epoch.

        All processes must call it. If one had fewer batches, all raise an error instead of
        waiting forever. Without a process group it does nothing.

        Raises:
            RuntimeError: in all processes, if they made unequally many calls or their settings
                differ.

        Example:
            >>> RefurbishedTargets(num_samples=100, num_classes=2).check_ranks()
        """
        if is_distributed():
            self._ranks.synchronize(self.updates.device, self._shared_settings(), is_last=True)

    def _synchronize(self, index: Tensor, labels: Tensor, probs: Tensor) -> list[int]:
        """Check this process's batch, compare with the others, and return all batch sizes."""
        failure: Exception | None = None
        try:
            self._check(index, labels, probs)
        except (TypeError, ValueError) as error:
            failure = error
        settings = self._shared_settings()
        if failure is None:
            settings["soft labels"] = labels.is_floating_point()
            settings["dtype of `probs`"] = probs.dtype
        settings["updates before"] = None if self._is_compared else self._described_updates()
        count = len(index) if failure is None else 0
        counts = self._ranks.synchronize(
            self.updates.device, settings, count=count, failure=failure
        )
        self._is_compared = True
        return counts

    def _described_updates(self) -> str:
        """Return the number of all updates, and a hash of those of each sample."""
        updates = self.updates.cpu()
        return f"{int(updates.sum())}, hash {zlib.crc32(updates.numpy().tobytes()):08x}"

    def _shared_settings(self) -> dict[str, object]:
        """Return what must be equal in all processes."""
        of_runs = {
            "dtype": self.averages.values.dtype,
            "validate_args": self.validate_args,
            "judge_memory": self._remembers,
        }
        return self.settings() | of_runs | self.plan

    def _codes(self, labels: Tensor) -> Tensor:
        """Return an integer code for each label (B,): its mean class, to float16 resolution.

        For several annotators' labels a hash, which also depends on who gave them.
        """
        if self.annotators is not None:
            return annotators.codes(labels)
        if not labels.is_floating_point():
            return _places(labels).round().int()
        wide = labels.to(torch.promote_types(labels.dtype, torch.float32))
        places = _places(torch.arange(self.num_classes, device=labels.device))
        return (wide * places).sum(-1).round().int()

    def _record_labels(self, index: Tensor, order: SampleOrder, codes: Tensor) -> None:
        """Store these codes of labels; reject changed labels and a wrong index."""
        place, first = order.place, codes
        if place is not None:
            first = torch.zeros_like(codes).scatter_reduce(0, place, codes, "amax")[place]
        if self.validate_args and checks.can_read_values():
            if place is not None:
                self._check_unchanged(index, first, codes)
            self._check_unchanged(index, self.given[index], codes)
            self._calls.check(order.samples)
        if not self._expects:
            self.given[index] = first

    def _check_unchanged(self, index: Tensor, before: Tensor, codes: Tensor) -> None:
        if torch.equal(before, codes):
            return
        other = _differing(before, codes)
        if bool(other.any()):
            raise ValueError(
                "`labels` must be those that the samples of `index` have had before; got other "
                f"labels for {int(other.sum())} of {len(index)} samples, the first of them sample "
                f"{int(index[other][0])}. Does `index` count from 0 in each process, worker or "
                "subset, or in shuffled order? It must be the place in the training set. For "
                "corrected labels create new targets"
            )

    def _given(self, labels: Tensor, probs: Tensor) -> Tensor:
        """Return labels as probabilities (B, C), or index labels (B,) where C is large."""
        if labels.ndim == 1 and isinstance(self.counts, SparseCounts):
            return labels
        return as_probabilities(labels, RF.widen(probs))

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

    def _posterior_rule(self) -> PosteriorRule:
        """Return the function from beliefs and labels to posteriors (B, C), without checks."""
        matrices = self.annotator_matrices
        if matrices is None:
            return self.counts.rule(self._class_shares)
        return partial(_annotator_posterior, noise_matrices=matrices)

    def _posteriors(
        self, scores: Tensor, beliefs: Tensor, labels: Tensor, given: Tensor, updates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the targets (B, C) by the posteriors, and sharper ones to estimate noise from.

        In the warm-up the targets are the given labels.
        """
        sharper = scores / self.noise_temperature
        if self.annotators is None and not labels.is_floating_point():
            posteriors = self.counts.posteriors(
                scores, sharper, beliefs, labels, self._class_shares
            )
        else:
            posterior_of = self._posterior_rule()
            posteriors = [posterior_of(each.softmax(-1), labels) for each in (scores, sharper)]
        refurbished, counted = posteriors
        weight = self.classes.posterior_weight(
            labels if labels.ndim == 1 else given, self.prior_count
        )
        is_due = updates > self._effective_warmup
        return towards_(refurbished, given, weight * is_due), towards_(counted, given, weight)

    def _updated_average(self, index: Tensor, updates: Tensor, probs: Tensor) -> Tensor:
        """Return the averages (B, C) with these predictions."""
        old = RF.widen(self.averages_of(index), probs)
        share = (
            updates.reciprocal().to(old.dtype)
            if self.momentum is None
            else 1.0 - self.momentum * (updates > 1).to(old.dtype)
        )
        return old.lerp_(RF.widen(probs, old), share)

    def _check(self, index: Tensor, labels: Tensor, probs: Tensor) -> None:
        num_samples, num_classes = self.num_samples, self.num_classes
        checks.indices("index", index)
        checks.floating("probs", probs)
        if probs.shape != (len(index), num_classes):
            raise ValueError(
                f"`probs` must have shape (B, C) = ({len(index)}, {num_classes}); "
                f"got {tuple(probs.shape)}"
            )
        self._check_labels(labels, len(index))
        if self.validate_args:
            checks.index_values("index", index, num_samples)
            self._check_label_values(labels)
            checks.not_labels(index, labels, num_samples, num_classes)
            checks.probability_values("`probs`", probs)

    def _check_labels(self, labels: Tensor, count: int) -> None:
        """Require the dtype and shape of labels of `count` samples."""
        if self.annotators is None:
            checks.labels(labels, torch.Size([count]), self.num_classes)
        else:
            annotators.check_labels(labels, count, self.num_annotators)

    def _check_label_values(self, labels: Tensor) -> None:
        """Require valid label values, and with annotators at least one label for each sample."""
        if self.annotators is None:
            checks.label_values(labels, self.num_classes)
        else:
            annotators.check_labelled(labels, self.num_classes)


def _equations() -> tuple[
    Callable[..., tuple[Tensor, dict[str, Parts], dict[str, Parts]]], Callable[..., None]
]:
    """Return what :meth:`RefurbishedTargets.compile` compiles."""
    return RefurbishedTargets._follow, RefurbishedTargets._store


class RepeatedCalls:
    """Detector of three successive batches that each come more than once in a row.

    One repeated batch can be an epoch: the batch may hold all samples. Three different batches,
    each repeated, cannot: the last batch of an epoch may be the first of the next one, but twice in
    succession only if an epoch has two batches, which then alternate.
    """

    def __init__(self) -> None:
        self._last: list[Tensor] = []  # up to three different batches, newest first
        self._repeated = 0  # how many batches in a row before the newest were repeated
        self._repeats = 0  # repetitions of the newest batch

    def check(self, samples: Tensor) -> None:
        """Record the sorted sample indices (B,) of one call.

        Raises:
            ValueError: if this is the third repeated batch in a row.
        """
        if self._last and _same_samples(samples, self._last[0]):
            self._repeats += 1
        else:
            self._repeated = self._repeated + 1 if self._repeats else 0
            self._last = [samples, *self._last[:2]]
            self._repeats = 0
        if self._repeats and self._repeated >= 2 and not _same_samples(samples, self._last[2]):
            raise ValueError(
                "`index` must name the samples of a step once; got each of three batches more than "
                "once in a row, which would count as more epochs. Call with update=False from the "
                "second time on (SAM), or give RobustLoss the other view as `second`"
            )


def _same_samples(first: Tensor, second: Tensor) -> bool:
    return first.device == second.device and torch.equal(first, second)
