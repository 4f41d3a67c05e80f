"""Refurbished training targets, by a noise matrix that is estimated during training."""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance.labels import annotators
from reliability_balance.labels.given_labels import (
    check_label_values,
    check_labels,
    check_unchanged,
    label_codes,
)
from reliability_balance.labels.ranks import SampleOrder, is_distributed, sort_samples
from reliability_balance.labels.rows import Parts
from reliability_balance.labels.target_state import TargetState
from reliability_balance.labels.target_step import current_targets, follow, store

Equations = tuple[
    Callable[..., tuple[Tensor, dict[str, Parts], dict[str, Parts]]], Callable[..., None]
]


class RefurbishedTargets(TargetState):
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
        up to rounding; where only the largest classes are stored, J also depends on the order of
        the samples of a step.

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

    # What `compile` compiles.
    _equations: Equations = (follow, store)

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
            return current_targets(self, index, labels, probs)
        is_alone = len(counts) < 2
        order = sort_samples(index)
        follow_batch, store_rows = self._equations
        targets, rows, sums = follow_batch(self, index, labels, probs, order.place)
        if not is_alone:
            rows, sums = self._ranks.exchange(counts, rows, sums)
            order = sort_samples(rows["samples"][0])
        if "label codes" in rows:
            self._record_labels(rows["samples"][0], order, *rows["label codes"])
        store_rows(self, rows, sums, None if is_alone else order.first)
        return targets

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the equations, by ``torch.compile`` with these arguments.

        Checks and communication are not compiled. A copy of the targets is not compiled.
        """
        self._equations = (
            torch.compile(follow, *args, **options),
            torch.compile(store, *args, **options),
        )

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions cannot be pickled.
        return {**super().__getstate__(), "_equations": (follow, store)}  # type: ignore[no-untyped-call]

    def samples_met(self, own: int) -> int:
        """Return how many samples all processes gave in the last call; `own`: this process's."""
        return self._ranks.samples if is_distributed() else own

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
        check_labels(labels, self.num_samples, self.num_classes, self.num_annotators)
        if self.annotators is None:
            checks.label_values(labels, self.num_classes)
        else:
            annotators.check_all(labels, self.num_classes)
        self.given.copy_(label_codes(labels, self.num_classes))
        self._expects = True

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
        check_labels(labels, len(index), self.num_classes, self.num_annotators)
        check_unchanged(index, self.given[index], label_codes(labels, self.num_classes))

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
            "labels known in advance": self._expects,
        }
        return self.settings() | of_runs | self.plan

    def _record_labels(self, index: Tensor, order: SampleOrder, codes: Tensor) -> None:
        """Store these codes of labels; reject changed labels and a wrong index."""
        place, first = order.place, codes
        if place is not None:
            first = torch.zeros_like(codes).scatter_reduce(0, place, codes, "amax")[place]
        if self.validate_args and checks.can_read_values():
            if place is not None:
                check_unchanged(index, first, codes)
            check_unchanged(index, self.given[index], codes)
            self._calls.check(order.samples)
        if not self._expects:
            self.given[index] = first

    def _check(self, index: Tensor, labels: Tensor, probs: Tensor) -> None:
        num_samples, num_classes = self.num_samples, self.num_classes
        checks.indices("index", index)
        checks.floating("probs", probs)
        if probs.shape != (len(index), num_classes):
            raise ValueError(
                f"`probs` must have shape (B, C) = ({len(index)}, {num_classes}); "
                f"got {tuple(probs.shape)}"
            )
        check_labels(labels, len(index), self.num_classes, self.num_annotators)
        if self.validate_args:
            checks.index_values("index", index, num_samples)
            check_label_values(labels, self.num_classes)
            checks.not_labels(index, labels, num_samples, num_classes)
            checks.probability_values("`probs`", probs)
