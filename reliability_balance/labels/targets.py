"""Training targets that weigh each label by how labels turned out to be wrong in this data set."""

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
from reliability_balance.labels.noise_matrix import AnnotatorCounts, as_noise_matrix, first_joint
from reliability_balance.labels.posterior import (
    _annotator_posterior,
    _one_label_each,
    as_probabilities,
    label_posterior,
    sharpened_scores,
)
from reliability_balance.labels.ranks import Ranks, is_distributed, mean_of_repeated

ROBUST = get_recipe("robust")
# A label is told from another by its mean place, in these steps; soft ones may differ by rounding.
CODE_STEPS, CODE_TOLERANCE = 1024, 8
GOLDEN = 0.6180339887


def _places(classes: Tensor) -> Tensor:
    """Where classes, of any shape, are in the code of a label.

    In uneven steps, so that half of each of two classes is not the class between them.
    """
    classes = classes.float()
    return CODE_STEPS * (classes + 0.5 * (GOLDEN * classes).frac())


def _differing(before: Tensor, codes: Tensor) -> Tensor:
    """Where (B,) codes of labels are of others than those before, if there were any."""
    return (before >= 0) & ((before - codes).abs() > CODE_TOLERANCE)


class RefurbishedTargets(Configured):
    r"""Soft targets for each training sample, from its label and what the model made of it so far.

    Each call takes a batch's predictions into the samples' running averages and returns the targets
    to train on: the labels while a sample is new, afterwards the
    :func:`posterior.label_posterior` of the sharpened average. The noise matrix T is learned along
    the way by expectation maximisation, from how these posteriors and the labels have gone
    together, so no noise rate need be known:

    .. math:: p = \mathrm{softmax}(\log \bar p / \tau + b), \quad
        J_{ck} \gets (1 - B/N) \, J_{ck} + B/N \, \mathrm{mean}_B \, q'_c y_k, \quad
        T_{ck} = J_{ck} / \sum_k J_{ck}

    where a soft label counts for the labels k in proportion to T_ck y_k. J_ck counts for J_cc at
    most, since two classes could change places otherwise, and q' is
    the posterior of p sharpened once more, of softmax(log p / tau'). Labels that are
    wrong just where classes look alike leave a model undecided, and only surer beliefs tell them
    from right ones; as targets they would be too sure.

    A network that is trained for long learns wrong labels by heart; its predictions are then no
    second opinion on them. With `held_back`, that share of the samples keep their labels back at
    first, with their own predictions as targets. How much better the network knows the labels of
    the others is memory, and as much is taken out of each prediction before it is averaged:

    .. math:: \tilde p_t = \mathrm{softmax}\Big(\log p_t - \kappa \sum_{s<t} (q_s - p_s)\Big)

    While a network learns nothing by heart, doubts only repeat its mistakes. So labels are doubted
    after a `warmup`, and in a shorter training only if there is `memory` when the held-back labels
    are given back.

    :class:`RobustLoss` makes these targets and calls them; the defaults are its own, for twenty
    epochs or more.

    On clean labels T comes close to the identity and the targets stay the labels; where one class
    is often labelled as another, only labels of that kind are doubted. Sharpening (tau < 1) is
    needed: a model of noisy labels is unsure, and T could not tell that from clean but ambiguous
    ones. Alone it would take from the classes that are hardest to tell, so b is moved until each
    class has the share in p that it has in the averages.

    A model that has not learned a class yet would refuse all its labels and never learn it. So
    labels y stand, as they do in J, where beliefs recognise few samples m_k of their classes:

    .. math:: q \gets w q + (1 - w) y, \quad w = \sum_k y_k \frac{m_k}{m_k + a}, \quad
        m_k = \frac{N \, \mathrm{Var}(p_k)}{1 - \mathrm{mean}(p_k)}

    With `num_annotators`, each annotator a has a noise matrix T^a of their own, counted in the same
    way and shrunk to the common T where they labelled little. The posterior is then
    :func:`posterior.annotator_posterior` of all labels of a sample. In the place of a label y there
    are the shares of its votes, also in what T is counted from.

    Args:
        num_samples: N, the size of the training set; samples are named by their index in it.
        num_classes: C.
        momentum: of the averages, in [0, 1); None for the plain mean of all predictions.
        temperature: tau of the average, > 0; below 1 sharpens.
        noise_temperature: tau' of what T is counted from, > 0; 1 takes p as it is.
        prior_count: a, at how many recognised samples of a class its labels are half doubted, >= 0;
            0 doubts the labels of all classes alike.
        warmup: updates of a sample before its target moves away from its label, >= 0.
        memory: by how many nats the network must know labels that it was shown better than
            held-back ones, when these are given back, for doubts to begin at once; > 0.
        held_back: share of the samples, in [0, 1); 0 takes all predictions as they are. It needs a
            warm-up of 2 or more; None is the robust recipe's where there is one, else 0.
        held_for: updates of a sample for which its label is held back, and before noise is counted,
            in [0, warmup]; None for all of the warm-up.
        num_annotators: A, how many people's labels a sample may have; 0 for one label a sample.
        annotator_prior: how many labels of a class it takes until half of an annotator's matrix is
            their own and half the common one, >= 0.
        dtype: of the C numbers kept of a sample (with `held_back` 2 C); ``torch.float16`` is half.
        validate_args: whether to check values, which waits for the device.
        group: of the processes that train together; None for all. With one, targets cannot be
            copied or pickled.

    Shape:
        - index: (B,) int64 in [0, N); labels: (B,) int64 or (B, C) floating, with `num_annotators`
          (B, A) int64, -1 where an annotator gave none; probs: (B, C) floating probabilities, which
          get no gradient; returns (B, C) float32 or wider.

    State:
        ``average`` (N, C), ``updates`` (N,) int32, ``given`` (N,) int32, which tells whether a
        label has changed; ``remembers`` () int8, whether there was memory, -1 before it is known;
        ``joint`` (C, C), J above; ``classes``, whose ``tilt`` is b, ``memorization``, whose
        ``strength`` is kappa, and ``annotators``, whose ``joint`` (A, C, C) counts each annotator's
        labels. All ranks' batches are gathered, so that every rank holds the same state: all must
        call it equally often, with batches of any size, an empty one where a rank has run out, and
        have the same settings; else all of them end with an error. A sample that occurs more than
        once counts as one update by its mean.
        Keep the module outside DistributedDataParallel, which would send rank 0's buffers around
        once more, and save it with the model.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong sizes, shapes or values.

    Differs from paper: not in it. Averages of one's own predictions as targets are Liu et al.,
    NeurIPS 2020 (https://arxiv.org/abs/2007.00151).

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
    }

    average: Tensor
    updates: Tensor
    given: Tensor
    joint: Tensor
    remembers: Tensor

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
        dtype: torch.dtype = torch.float32,
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
        self.validate_args = validate_args
        self.register_buffer("average", torch.zeros(num_samples, num_classes, dtype=dtype))
        self.register_buffer("updates", torch.zeros(num_samples, dtype=torch.int32))
        self.register_buffer("remembers", torch.full((), -1, dtype=torch.int8))
        self.register_buffer("given", torch.full((num_samples,), -1, dtype=torch.int32))
        self._remembers: bool | None = None  # what `remembers` holds
        self._expects = False  # whether all labels are known beforehand
        self._calls = RepeatedCalls()
        self._ranks = Ranks(group)
        # What else must be alike in all processes, by name.
        self.plan: dict[str, object] = {}
        self.classes = ClassShares(num_samples, num_classes)
        self.register_buffer("joint", first_joint(self.classes.tilt))
        self.memorization = (
            Memorization(num_samples, num_classes, held_back, dtype) if held_back else None
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
        """Take in the predictions of one batch and return its targets.

        Args:
            index: each sample's place in the training set.
            labels: the samples' labels, the same in every epoch.
            probs: the model's predictions.
            update: whether the predictions count. False where the same samples are judged once
                more in a step, as by SAM: the targets are those of what is known already, no
                process waits for another, and nothing changes.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, on the labels in the place of the index, on
                another label than a sample had before, and where each of several batches comes
                more than once in a row.
            RuntimeError: if another process refused its batch, has other settings or another
                state, is at another call, or has ended.
        """
        gathers = update and is_distributed()
        counts = self._meet(index, labels, probs) if gathers else []
        if not gathers:
            self._check(index, labels, probs)
        if not update:
            given = as_probabilities(labels, RF.widen(probs))
            doubted, _ = self._posteriors(self._scores(index), labels, given)
            updates = self.updates[index].unsqueeze(-1)
            _, held = self._held_back(index, updates)
            return self._shown(updates, held, doubted, given, probs)
        own = slice(len(index))
        if gathers:
            (index, labels, probs), own = self._ranks.gather(counts, index, labels, probs)
        given = as_probabilities(labels, RF.widen(probs))
        ordered = index.sort().values
        # On a processor it costs little to know; elsewhere it would wait for the device.
        is_cheap = index.is_cpu and checks.can_read_values()
        is_plain = is_cheap and not bool((ordered[1:] == ordered[:-1]).any())
        place = None if is_plain else torch.searchsorted(ordered, index)
        self._note_labels(index, ordered, place, labels)
        memorization = self.memorization
        if memorization is None:
            residual, freed = None, probs
        else:
            residual = memorization.residual[index]
            freed = memorization.free(residual, probs)
        updates = self.updates[index] + 1
        self.updates[index] = updates
        updates = updates.unsqueeze(-1)
        average = self._update_average(index, updates, mean_of_repeated(place, freed))
        scores = self._sharpened(average)
        doubted, counted = self._posteriors(scores, labels, given)
        known = updates > self.held_for
        counted = counted * known
        self._update_joint(counted, given, is_soft=labels.is_floating_point())
        if self.annotators is not None:
            self.annotators.update(counted, labels, len(self.average))
        self.classes.update(average, RF._softmax(scores), known)
        shown, held = self._held_back(index, updates)
        targets = self._shown(updates, held, doubted, given, probs)
        if memorization is not None and residual is not None:
            if shown is not None and held is not None:
                memorization.learn(residual, given, freed, shown, held)
            memorization.record(index, residual, mean_of_repeated(place, targets - probs))
        return targets[own]

    @property
    def noise_matrix(self) -> Tensor:
        """T (C, C), what was learned so far: row c tells how samples of class c are labelled."""
        return as_noise_matrix(self.joint, len(self.average))

    @property
    def annotator_matrices(self) -> Tensor | None:
        """T^a (A, C, C), how each annotator labels samples of each class; None without them."""
        if self.annotators is None:
            return None
        return self.annotators.matrices(self.noise_matrix, len(self.average))

    def trust(self, index: Tensor, labels: Tensor) -> Tensor:
        """How far each label agrees with its sample's posterior; low values are doubtful labels.

        Those of classes that are hardly known, too: they are not acted on, but may be looked at.
        Of several annotators' labels it is the most frequent one that is judged, by the posterior
        of all; of equally frequent ones the likeliest.

        Args:
            index: the samples.
            labels: their labels.

        Shape:
            - index: (B,) int64; labels: (B,) int64, (B, C) floating or (B, A) int64; returns (B,)
              in [0, 1]: the probability that an index label is right, or the overlap with a soft
              one.

        Raises:
            ValueError: if a sample has never been seen, or none often enough.
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
        """What is held of the samples before their labels are looked at: p above.

        Args:
            index: the samples.

        Shape:
            - index: (B,) int64; returns (B, C) float32 or wider, probabilities; of a sample that
              was never seen the shares of the classes say all.
        """
        return self._scores(index).softmax(-1)

    def _scores(self, index: Tensor) -> Tensor:
        """Logarithms of the beliefs (B, C), but for a constant of each sample."""
        return self._sharpened(self.average[index])

    def _sharpened(self, average: Tensor) -> Tensor:
        return sharpened_scores(RF.widen(average), self.temperature, self.classes.tilt)

    @torch.no_grad()
    def judge_memory(self) -> bool:
        """Find out whether the network learns labels by heart, once held-back ones are given back.

        If it does, labels are doubted from now on, and not only after the warm-up. To be called
        once, when an average sample has been seen `held_for` times; it waits for the device.
        """
        self.remembers.zero_()
        if self.memorization is not None:
            self.remembers.copy_(self.memorization.advantage() > self.memory)
        self._read_memory()
        return bool(self._remembers)

    @property
    def _doubts_from(self) -> int:
        """After how many updates of a sample its label is doubted."""
        return self.held_for if self._remembers else self.warmup

    def _read_memory(self) -> None:
        """Keep on the host what was found, which each step asks for."""
        found = int(self.remembers)
        self._remembers = None if found < 0 else found > 0

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._read_memory()

    def samples_met(self, own: int) -> int:
        """How many samples all processes gave in the last call, of which this one gave `own`."""
        return self._ranks.samples if is_distributed() else own

    def check_known(self) -> None:
        """Require that a sample was seen often enough for noise to be counted.

        Raises:
            ValueError: if none was.

        Example:
            >>> RefurbishedTargets(num_samples=100, num_classes=2).check_known()
            Traceback (most recent call last):
            ...
            ValueError: `targets` must have seen samples more than 10 times; got at most 0: ...
        """
        most = int(self.updates.max())
        if most <= self.held_for:
            raise ValueError(
                f"`targets` must have seen samples more than {self.held_for} times; got at most "
                f"{most}: train for longer, or plan for fewer epochs"
            )

    def expect(self, labels: Tensor) -> None:
        """Say beforehand what labels the samples have: any other one is refused at its first call.

        Args:
            labels: all N, as they will be trained on.

        Shape:
            - labels: (N,) int64 or (N, C) floating, with `num_annotators` (N, A) int64.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on a wrong shape or values.
        """
        num_samples, num_classes = self.average.shape
        self._check_labels(labels, num_samples)
        if self.annotators is None:
            checks.label_values(labels, num_classes)
        else:
            annotators.check_all(labels, num_classes)
        self.given.copy_(self._codes(labels))
        self._expects = True

    def check_given(self, index: Tensor, labels: Tensor) -> None:
        """Require the labels that the samples were trained on.

        Args:
            index: the samples; those that were never seen may have any label.
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
        self._refuse_other_labels(index, self.given[index], self._codes(labels))

    def check_ranks(self) -> None:
        """Require that all processes have called equally often, at the end of an epoch.

        All processes must call it. One that has fewer batches then ends the others with an error
        instead of letting them wait. Alone, or without a process group, it does nothing.

        Raises:
            RuntimeError: in all processes, if they have not, or their settings differ.

        Example:
            >>> RefurbishedTargets(num_samples=100, num_classes=2).check_ranks()
        """
        if is_distributed():
            self._ranks.meet(self.updates.device, self._alike(), is_last=True)

    def _meet(self, index: Tensor, labels: Tensor, probs: Tensor) -> list[int]:
        """Check this process's batch and compare notes with the others; sizes of all batches."""
        refusal: Exception | None = None
        try:
            self._check(index, labels, probs)
        except (TypeError, ValueError) as error:
            refusal = error
        alike = self._alike()
        if refusal is None:
            alike["soft labels"] = labels.is_floating_point()
            alike["dtype of `probs`"] = probs.dtype
        if self._ranks.calls == 0:
            alike["updates before"] = int(self.updates.sum())
        count = len(index) if refusal is None else 0
        return self._ranks.meet(self.updates.device, alike, count=count, refusal=refusal)

    def _alike(self) -> dict[str, object]:
        """What must be alike in all processes."""
        of_runs = {"dtype": self.average.dtype, "validate_args": self.validate_args}
        return self.settings() | of_runs | self.plan

    def _codes(self, labels: Tensor) -> Tensor:
        """One integer for each label (B,): its mean place, as exactly as float16 tells classes.

        Of several annotators' labels a hash, which also tells by whom they are.
        """
        if self.annotators is not None:
            return annotators.codes(labels)
        if not labels.is_floating_point():
            return _places(labels).round().int()
        wide = labels.to(torch.promote_types(labels.dtype, torch.float32))
        classes = torch.arange(labels.shape[-1], device=labels.device)
        return (wide * _places(classes)).sum(-1).round().int()

    def _note_labels(
        self, index: Tensor, ordered: Tensor, place: Tensor | None, labels: Tensor
    ) -> None:
        """Keep what labels these samples have, and refuse an index that cannot be theirs."""
        codes = first = self._codes(labels)
        if place is not None:
            first = torch.zeros_like(codes).scatter_reduce(0, place, codes, "amax")[place]
        if self.validate_args and checks.can_read_values():
            if place is not None:
                self._refuse_other_labels(index, first, codes)
            self._refuse_other_labels(index, self.given[index], codes)
            self._calls.check(ordered)
        if not self._expects:
            self.given[index] = first

    def _refuse_other_labels(self, index: Tensor, before: Tensor, codes: Tensor) -> None:
        if torch.equal(before, codes):
            return
        other = _differing(before, codes)
        if bool(other.any()):
            raise ValueError(
                "`labels` must be those that the samples of `index` have had before; got other "
                f"labels for {int(other.sum())} of {len(index)} samples, the first of them sample "
                f"{int(index[other][0])}. Does `index` count from 0 in each process, worker or "
                "subset, or in shuffled order? It must be the place in the training set. Labels "
                "that were corrected need new targets"
            )

    def _held_back(
        self, index: Tensor, updates: Tensor
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Which samples (B, 1) are in the comparison of shown and of held-back labels.

        None once all labels were given back.
        """
        if self.memorization is None or self._remembers is not None:
            return None, None
        early = updates <= self.held_for
        held = early & self.memorization.control[index].unsqueeze(-1)
        return early ^ held, held

    def _posterior_rule(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What makes posteriors (B, C) of beliefs and labels, whose values it does not check."""
        matrices = self.annotator_matrices
        if matrices is None:
            return partial(label_posterior, noise_matrix=self.noise_matrix)
        return partial(_annotator_posterior, noise_matrices=matrices)

    def _posteriors(self, scores: Tensor, labels: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Posteriors (B, C) as targets, and sharper ones to count noise from."""
        both = torch.stack([scores, scores / self.noise_temperature])
        if labels.ndim == 1:  # label_posterior in the log domain: all of T is above zero
            likelihood = self.noise_matrix.to(scores.dtype).log().T[labels]
            posteriors = RF._softmax(both + likelihood)
        else:
            posterior_of = self._posterior_rule()
            posteriors = torch.stack([posterior_of(each, labels) for each in both.softmax(-1)])
        given, posteriors = RF.widen(given, posteriors), RF.widen(posteriors, given)
        evidence = self.classes.evidence(given, self.prior_count)
        doubted, counted = given.lerp(posteriors, evidence)
        return doubted, counted

    def _shown(
        self, updates: Tensor, held: Tensor | None, doubted: Tensor, given: Tensor, probs: Tensor
    ) -> Tensor:
        """Targets (B, C): in the warm-up labels, or predictions where these are held back."""
        targets = doubted.where(updates > self._doubts_from, given)
        return targets if held is None else probs.to(targets.dtype).where(held, targets)

    def _update_average(self, index: Tensor, updates: Tensor, probs: Tensor) -> Tensor:
        """Take predictions into the averages, and return these as they are stored."""
        old = RF.widen(self.average[index], probs)
        share = (
            updates.to(old.dtype).reciprocal()
            if self.momentum is None
            else 1.0 - self.momentum * (updates > 1).to(old.dtype)
        )
        average = old.lerp(RF.widen(probs, old), share).to(self.average.dtype)
        self.average[index] = average
        return average

    def _update_joint(self, posterior: Tensor, given: Tensor, *, is_soft: bool) -> None:
        """Take these samples into J, as much as they are of an epoch; zeros count for nothing.

        Of a soft label y, label k was meant of a sample of class c in proportion to T_ck y_k.
        """
        posterior, given = RF.widen(posterior, given), RF.widen(given, posterior)
        with RF._without_autocast(posterior):
            if is_soft:
                matrix = self.noise_matrix.to(posterior.dtype)
                tiny = torch.finfo(posterior.dtype).tiny
                news = (posterior / (given @ matrix.T).clamp_min(tiny)).T @ given * matrix
            else:
                news = posterior.T @ given
            news = (news / len(self.average)).to(self.joint.dtype)
        self.joint.mul_((1.0 - news.sum()).clamp_min(0.0)).add_(news)

    def _check(self, index: Tensor, labels: Tensor, probs: Tensor) -> None:
        num_samples, num_classes = self.average.shape
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
        """Require labels of so many samples by dtype and shape."""
        if self.annotators is None:
            checks.labels(labels, torch.Size([count]), self.average.shape[1])
        else:
            annotators.check_labels(labels, count, self.num_annotators)

    def _check_label_values(self, labels: Tensor) -> None:
        """Require values that labels may have, and of annotators a label for each sample."""
        if self.annotators is None:
            checks.label_values(labels, self.average.shape[1])
        else:
            annotators.check_labelled(labels, self.average.shape[1])


class RepeatedCalls:
    """Notice where each of three batches in a row comes more than once in a row.

    The same batch again is an epoch where it holds all samples. Three batches that differ, each of
    them repeated, cannot be epochs: the last batch of an epoch may come first in the next one, but
    with the batches of two epochs this happens only where two batches make an epoch, and alternate.
    """

    def __init__(self) -> None:
        self._last: list[Tensor] = []  # up to three different batches, the newest first
        self._repeated = 0  # of those before the newest, how many in a row were repeated
        self._repeats = 0  # of the newest

    def check(self, samples: Tensor) -> None:
        """Take in the samples (B,) of one call, sorted.

        Raises:
            ValueError: if they are the third batch of this kind.
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
