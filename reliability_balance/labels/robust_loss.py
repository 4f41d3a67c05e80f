"""The robust recipe as one loss: label refurbishment, mixup, logit adjustment and schedule."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance import checks, numerics
from reliability_balance import functional as RF
from reliability_balance.core.balancer import ReliabilityBalancer
from reliability_balance.core.class_prior import log_frequencies
from reliability_balance.core.losses import LossTerms, ReliabilityLoss
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.recipes import Recipe, RecipeName, get_recipe, renamed
from reliability_balance.labels import annotators, noise_estimate
from reliability_balance.labels.given_labels import checked_copy, differing, is_of_annotators
from reliability_balance.labels.inspection import LabelRanking, rank_labels
from reliability_balance.labels.interval import Interval
from reliability_balance.labels.knowledge import ignorance
from reliability_balance.labels.mixing import Partners, draw_partners, mix_with
from reliability_balance.labels.posterior import as_probabilities, class_frequencies
from reliability_balance.labels.ranks import world_size
from reliability_balance.labels.rows import Progress
from reliability_balance.labels.targets import RefurbishedTargets

# Fields of a recipe that configure the balancer, which `wrap` builds before the loss is created.
BALANCER_FIELDS = ("num_anchors", "head", "metric", "delta", "attention", "token_attention")
# Labels are refurbished if kappa exceeds this many standard errors. Starting without reason costs
# less than starting too late.
STANDARD_ERRORS = 2.5


class RobustLoss(nn.Module):
    r"""Loss to train a wrapped model on labels of which some may be wrong.

    .. code-block:: text

        output ---- with the class prior of the labels --- RefurbishedTargets
           \                                                    |
            +------ mixed with other samples ----------- ReliabilityLoss --- loss

    It holds everything that the recipe needs besides the model: the
    :class:`labels.RefurbishedTargets`, the class frequencies, :func:`labels.mix`, and the progress
    of the training. The noise rate need not be known.

    Training starts on the labels as given, except for a tenth that is held back. These are released
    after half of the planned epochs, ten at most. After ten epochs, all labels are refurbished by
    the model's past predictions. In a shorter training this happens only if memorization is
    measured, that is, if the model fits shown labels better than held-back ones; otherwise the
    labels as given work best. Progress is counted in samples, so an epoch may hold a part of them,
    or some repeatedly.

    If the model predicts the held-back labels no better than class frequencies do, refurbishment
    would be random. The labels are then trained on as given, a warning says so once, and `caution`
    holds the reason. This is checked once per epoch.

    Labels of several annotators (N, A) are combined with a noise matrix for each annotator, which
    is estimated in training (`annotator_matrices`). In the warm-up the targets are the vote shares.

    Logits are adjusted for the class frequencies of the labels in training, so predictions assume a
    uniform class prior. :func:`core.with_class_prior` with `class_prior` adapts them to the
    frequencies of the labels.

    Args:
        model: a wrapped model, or a :class:`ReliabilityBalancer` for stored embeddings; may be
            inside DistributedDataParallel, ``torch.compile`` or another module. It does not become
            a submodule; its `class_prior` is set.
        labels: all labels of the training set, as given.
        epochs: planned passes over the training set, > 0. If an epoch holds only a part of the
            samples, it counts as that part.
        recipe: "robust", "paper" (labels as given, no additions), or a :class:`core.Recipe`.
            None: that of the model. Its fields for the balancer must be those of the model: pass a
            recipe that changes them to :func:`wrap`.
        kept: number of classes stored for each sample. None: all of up to 32 classes, else 15, and
            the sum of the others, which takes 0.25 GB for 1,280,000 samples.
        dtype: dtype of the values stored for each sample. None: ``torch.float32``, and
            ``torch.float16`` where not all classes are stored.
        validate_args: check values, which synchronizes with the device.
        group: process group that trains together; None: all processes.

    Shape:
        - labels: (N,) int64, or (N, C) floating probabilities, such as vote shares, or (N, A) int64
          with a column for each annotator and -1 where they gave no label
        - output: a :class:`BalancerOutput` of B samples; index: (B,) int64 in [0, N); returns ()

    Attributes:
        terms: detached :class:`core.LossTerms` of the last batch, or of its second view.

    State:
        One entry in ``state_dict``, of tensors and numbers: targets, progress and findings. It
        moves to the device of the outputs. DistributedDataParallel does not broadcast it; all ranks
        hold the same state.

    Raises:
        TypeError: on wrong types.
        ValueError: if the model holds no balancer or several, or was built with another balancer
            than the recipe's, on wrong shapes or values, on a missing index, and on labels that are
            not those of the index.
        RuntimeError: between processes, as :class:`labels.RefurbishedTargets`.

    Warns:
        UserWarning: once, if labels are trained on as given because the model does not predict
            them.

    Differs from paper: not in it; ``recipe="paper"`` is the paper.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> labels = torch.arange(60) % 3
        >>> features = torch.randn(60, 8) + 4 * nn.functional.one_hot(labels, 8)
        >>> model = ReliabilityBalancer(8, num_classes=3)
        >>> criterion = RobustLoss(model, labels, epochs=6)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
        >>> for epoch in range(6):
        ...     for index in torch.randperm(60).split(20):
        ...         loss = criterion(model(features[index]), labels[index], index)
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        >>> criterion.doubtful_labels().first(3).sample.shape, criterion.noise_matrix.shape
        (torch.Size([3]), torch.Size([3, 3]))
    """

    terms: LossTerms

    def __init__(
        self,
        model: nn.Module,
        labels: Tensor,
        *,
        epochs: float,
        recipe: RecipeName | Recipe | None = None,
        kept: int | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool = True,
        group: "torch.distributed.ProcessGroup | None" = None,
    ) -> None:
        super().__init__()
        checks.positive("epochs", epochs)
        balancer = balancer_of(model)
        self.recipe = get_recipe(balancer.recipe if recipe is None else recipe)
        _check_balancer_fields(self.recipe, balancer)
        self.epochs = epochs
        self.validate_args = validate_args
        num_classes = balancer.num_classes
        labels = checked_copy(labels, num_classes)
        targets = RefurbishedTargets(
            len(labels),
            num_classes,
            momentum=self.recipe.momentum,
            temperature=self.recipe.temperature,
            noise_temperature=self.recipe.noise_temperature,
            prior_count=self.recipe.prior_count,
            warmup=self.recipe.warmup,
            memory=self.recipe.memory,
            held_back=self.recipe.held_back if self.recipe.warmup > 1 else 0.0,
            held_for=self.recipe.held_for_of(epochs),
            num_annotators=labels.shape[1] if is_of_annotators(labels) else 0,
            annotator_prior=self.recipe.annotator_prior,
            kept=kept,
            dtype=dtype,
            validate_args=validate_args,
            group=group,
        )
        targets.plan = {"epochs": epochs, "recipe": self.recipe}
        # Labels are checked earlier.
        self.loss = ReliabilityLoss(recipe=self.recipe, validate_args=False)
        # In tuples, so that they do not become submodules: this module does not own the model, and
        # DistributedDataParallel must not broadcast the state of the samples.
        self._model = (balancer,)
        self._know(targets, labels)
        self._group = group
        self._equation = RobustLoss._terms
        # If training ends within the warm-up, mixing starts when labels are refurbished, or never.
        self._mix_from = (
            self.recipe.mix_from * self.recipe.warmup
            if epochs > self.recipe.warmup
            else float("inf")
        )
        self._samples_taken = 0
        self._epochs_judged = 0
        self._has_warned = False
        self.caution = ""

    @property
    def balancer(self) -> ReliabilityBalancer:
        """The balancer of the model."""
        return self._model[0]

    @property
    def targets(self) -> RefurbishedTargets:
        """Targets and everything estimated about the labels."""
        return self._kept[0]

    @property
    def labels(self) -> Tensor:
        """All labels of the training set, as given, on the CPU."""
        return self._kept[1]

    @property
    def class_prior(self) -> Tensor:
        """Class frequencies (C,) of the labels as given; uniform if the recipe says so."""
        return self._kept[2]

    @property
    def progress(self) -> float:
        """Epochs trained so far: updates per sample, over all processes.

        If the recipe does not refurbish labels, processes do not communicate. Each then takes the
        batches of the others to be as large as its own.
        """
        return self._samples_taken / len(self.labels)

    @property
    def refurbishes(self) -> bool:
        """Whether labels are refurbished by now."""
        return self.recipe.refurbishes_labels and self.progress > self.targets.effective_warmup

    @property
    def noise_matrix(self) -> Tensor:
        """Estimated T (C, C): row c is the label distribution of class c.

        Raises:
            ValueError: if the recipe does not refurbish labels, or no sample was seen often enough.
        """
        self._require_known()
        return self.targets.noise_matrix

    @property
    def annotator_matrices(self) -> Tensor | None:
        """Estimated T^a (A, C, C), one matrix for each annotator; None without annotators.

        Raises:
            ValueError: if the recipe does not refurbish labels, or no sample was seen often enough.
        """
        if not self.targets.num_annotators:
            return None
        self._require_known()
        return self.targets.annotator_matrices

    def forward(
        self,
        output: BalancerOutput,
        labels: Tensor,
        index: Tensor | None = None,
        *,
        second: BalancerOutput | None = None,
        update: bool = True,
    ) -> Tensor:
        """Return the loss of one batch.

        In eval mode it is the loss on the labels as given, which needs no index.

        Args:
            output: output of the model.
            labels: labels of the samples, as given.
            index: indices of the samples in the training set.
            second: output of the model for another augmentation of the same samples. Predictions
                are then averaged over both views, the loss is the mean of both, and the consistency
                loss :func:`functional.disagreement` is added.
            update: False for a second forward pass on the same samples in one step, as by SAM.

        Raises:
            TypeError: on wrong types.
            ValueError: on a missing index, on wrong shapes or values, on labels that are not those
                of the index, and where batches come more than once in a row.
        """
        check_output("output", output)
        self._move_to(output.log_probs.device)
        views = [output]
        if second is not None:
            check_output("second", second)
            views.append(second)
        self._check_outputs(views)
        if self.training and self.recipe.refurbishes_labels:
            targets = self._refurbish(views, labels, index, update)
        else:
            targets = self._as_given(labels, output, index if self.training else None)
            if self.training and update:
                self._samples_taken += len(labels) * world_size(self._group)
        loss = self._loss_of_view(output, targets)
        if second is None:
            return loss
        loss = (loss + self._loss_of_view(second, targets)) / 2
        return loss + self.recipe.consistency * RF.disagreement(output.log_probs, second.log_probs)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the equations of targets, mixing and losses; call it once, before training.

        Checks, progress and communication are not compiled. Compiling takes about a minute, again
        when mixing starts and when held-back labels are released. Afterwards a step launches a
        ninth of the kernels (``python -m benchmarks overhead --part kernels``), which pays on a
        GPU under a small encoder. Compile the model, or its `balancer`, too. A copy of the loss is
        not compiled.

        Args:
            *args: as of ``torch.compile``.
            **options: as of ``torch.compile``.

        Example:
            >>> from reliability_balance import ReliabilityBalancer
            >>> model = ReliabilityBalancer(8, num_classes=3)
            >>> criterion = RobustLoss(model, torch.arange(60) % 3, epochs=30)
            >>> model.compile()
            >>> criterion.compile()
        """
        self._equation = torch.compile(RobustLoss._terms, *args, **options)
        self.targets.compile(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        # A compiled function cannot be pickled.
        return {**super().__getstate__(), "_equation": RobustLoss._terms}  # type: ignore[no-untyped-call]

    def doubtful_labels(
        self,
        *,
        class_names: Iterable[Any] = (),
        sample_names: Iterable[Any] = (),
        progress: Progress | None = None,
    ) -> LabelRanking:
        """Rank all labels trained on, the most doubtful first; see :func:`rank_labels`.

        Args:
            class_names: C names to show; empty: class indices.
            sample_names: N names to show, such as :class:`data.SampleIds`; empty: sample indices.
            progress: called with the number of labels ranked since its last call, such as
                ``tqdm(total=N).update``.

        Raises:
            TypeError: if names are not a sequence, or a class has no name.
            ValueError: if no sample was seen, on another number of names, or on two classes of the
                same name.

        Warns:
            UserWarning: if the model has learned too little for verdicts.
        """
        self._require_doubts()
        if not bool(self.targets.updates.any()):
            raise ValueError("`criterion` must have seen samples; got none so far: train first")
        return rank_labels(
            self.targets,
            self.labels,
            class_names=class_names,
            sample_names=sample_names,
            progress=progress,
        )

    def noise_rate(self, *, level: float = 0.95) -> Interval:
        """Estimate the share of wrong labels, as :func:`labels.estimate_noise`.

        Args:
            level: confidence level of the interval, in (0, 1).

        Raises:
            ValueError: if no sample was seen often enough.

        Warns:
            UserWarning: if the model has learned too little for an estimate.
        """
        self._require_known()
        targets, labels, _ = self._kept
        return noise_estimate.estimate_rate(targets, labels, level=level)

    def add_samples(self, labels: Tensor) -> None:
        """Append samples to the training set; what was learned of the others stays.

        Their indices follow those of the other samples: the first is the number of labels before.
        Each has a warm-up of its own, and a tenth of the labels is held back for as long as the
        first ones were. An epoch becomes longer, `progress` stays, and the class prior follows.

        All processes must add the same labels. To resume later, create the criterion with all
        labels, or with the first ones and repeat the calls.

        Args:
            labels: labels of the new samples, of the same kind as the others.

        Shape:
            - labels: (M,) int64, (M, C) floating or (M, A) int64, M >= 1.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or labels of another kind.

        Example:
            >>> model = ReliabilityBalancer(8, num_classes=3)
            >>> criterion = RobustLoss(model, torch.arange(60) % 3, epochs=6)
            >>> criterion.add_samples(torch.tensor([2, 0]))
            >>> len(criterion.targets.updates), criterion.class_prior
            (62, tensor([0.3385, 0.3231, 0.3385]))
        """
        targets, before, _ = self._kept
        if not isinstance(labels, Tensor) or labels.dtype != before.dtype:
            got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"`labels` must be of {before.dtype}, as the others; got {got}")
        if labels.ndim != before.ndim or labels.shape[1:] != before.shape[1:] or not len(labels):
            sizes = ("M", *map(str, before.shape[1:]))
            raise ValueError(
                f"`labels` must have shape ({', '.join(sizes)}), M >= 1, as the others; "
                f"got {tuple(labels.shape)}"
            )
        if labels.dtype == torch.int64 and int(labels.max()) >= targets.num_classes:
            raise ValueError(
                f"`labels` must lie in [0, {targets.num_classes}); got values up to "
                f"{int(labels.max())}: call `add_classes` first"
            )
        joined = checked_copy(torch.cat([before, labels.detach().cpu()]), targets.num_classes)
        targets.add_samples(len(labels))
        self._samples_taken = self._samples_taken * len(joined) // len(before)
        self._know(targets, joined)

    def add_classes(self, count: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Append classes to model and criterion; what was learned of the others stays.

        Calls :meth:`ReliabilityBalancer.add_classes` of the model, which says what `optimizer`
        is for, and what else must be made anew. Add samples of the new classes by
        :meth:`add_samples`. The labels of the others stay: soft ones give the new classes 0.

        All processes must add as many. To resume later, wrap the original network, and repeat
        all calls of this and of :meth:`add_samples` in the same order before you load the states.

        Args:
            count: number of classes, >= 1.
            optimizer: the optimizer of the model, whose state grows with the weights. None: create
                a new one afterwards; the state of the old one keeps the old sizes, so that its next
                step raises an error.

        Raises:
            TypeError: as :meth:`ReliabilityBalancer.add_classes`.
            ValueError: as there, and on labels of several annotators that, with so many classes,
                look like one-hot labels or vote counts. Nothing is changed then.

        Example:
            >>> model = ReliabilityBalancer(8, num_classes=3)
            >>> optimizer = torch.optim.AdamW(model.parameters())
            >>> criterion = RobustLoss(model, torch.arange(60) % 3, epochs=6)
            >>> criterion.add_classes(1, optimizer)
            >>> criterion.add_samples(torch.tensor([3, 3]))
            >>> model(torch.randn(2, 8)).corrected.shape, criterion.class_prior.shape
            (torch.Size([2, 4]), torch.Size([4]))
        """
        targets, labels, _ = self._kept
        checks.at_least("count", count, 1)
        if labels.is_floating_point():
            labels = nn.functional.pad(labels, (0, count))
        labels = checked_copy(labels, targets.num_classes + count)
        self.balancer.add_classes(count, optimizer)
        targets.add_classes(count)
        self._know(targets, labels)

    def _know(self, targets: RefurbishedTargets, labels: Tensor) -> None:
        """Keep all labels and their frequencies, and declare them to targets and balancer."""
        targets.expect(labels)
        prior = torch.full((targets.num_classes,), 1.0 / targets.num_classes)
        if self.recipe.logit_adjustment:
            prior = class_frequencies(labels, targets.num_classes, added=1.0).float()
        prior = prior.to(targets.updates.device)
        self._kept = (targets, labels, prior)
        self._log_prior = log_frequencies(prior) if self.recipe.logit_adjustment else None
        self._epochs_checked = -1
        self.balancer.class_prior.copy_(prior)

    def check_labels(self, labels: Tensor) -> None:
        """Require the labels that this loss was created with.

        Raises:
            ValueError: on other labels.
        """
        targets, own, _ = self._kept
        if len(labels) != len(own):
            raise ValueError(f"`labels` must be the criterion's {len(own)}; got {len(labels)}")
        targets.check_given(torch.arange(len(own)), labels.cpu())

    def _move_to(self, device: torch.device) -> None:
        """Move the state to the device of the outputs; labels stay on the CPU."""
        targets, labels, prior = self._kept
        if prior.device != device or targets.updates.device != device:
            self._kept = (targets.to(device), labels, prior.to(device))
            self._log_prior = None if self._log_prior is None else self._log_prior.to(device)

    def _require_doubts(self) -> None:
        if not self.recipe.refurbishes_labels:
            raise ValueError(
                "`recipe` must have refurbishes_labels=True to learn which labels are wrong; got "
                "False"
            )

    def _require_known(self) -> None:
        self._require_doubts()
        self.targets.check_known("criterion")

    @torch.no_grad()
    def _check_outputs(self, views: list[BalancerOutput]) -> None:
        """Require outputs of the criterion's model; once per epoch also compare anchors.

        Also sets the model's `class_prior` again, in case other weights were loaded.
        """
        balancer = self.balancer
        expected = (balancer.num_classes, balancer.embedding_dim)
        for name, view in zip(("output", "second"), views, strict=False):
            got = (view.log_probs.shape[-1], view.embedding.shape[-1])
            if got != expected:
                raise ValueError(
                    f"`{name}` must be of the criterion's model, which has {expected[0]} classes "
                    f"and an embedding of {expected[1]}; got {got[0]} and {got[1]}"
                )
        if len(views) > 1 and len(views[0].log_probs) != len(views[1].log_probs):
            raise ValueError(
                f"`second` must be of the same {len(views[0].log_probs)} samples; got "
                f"{len(views[1].log_probs)}"
            )
        if not (self.training and self.validate_args and checks.can_read_values()):
            return
        if balancer.head is None and self.recipe.refurbishes_labels:
            for name, view in zip(("output", "second"), views, strict=False):
                _check_finite_logits(name, view.logits)
        if int(self.progress) == self._epochs_checked:
            return
        anchors = balancer.anchor_points()
        for name, view in zip(("output", "second"), views, strict=False):
            if anchors is None or view.anchors is None:
                continue
            theirs = view.anchors.to(anchors)
            if theirs.shape != anchors.shape or not torch.allclose(theirs, anchors, atol=1e-2):
                raise ValueError(
                    f"`{name}` must be of the model that the criterion was made for; got one of "
                    "another model, whose anchors differ. Create a RobustLoss for each model, and "
                    "copy a model together with its criterion"
                )
        self._epochs_checked = int(self.progress)
        balancer.class_prior.copy_(self.class_prior)

    def _as_given(self, labels: Tensor, output: BalancerOutput, index: Tensor | None) -> Tensor:
        """Check labels and return them unchanged; for several annotators the vote shares."""
        if index is not None:
            checks.indices("index", index)
            if self.validate_args:
                checks.index_values("index", index, len(self.labels))
                self.targets.check_given(index, labels)
        batch_size, num_classes = output.log_probs.shape
        if self.targets.num_annotators and is_of_annotators(labels):
            annotators.check_labels(labels, batch_size, self.targets.num_annotators)
            if self.validate_args:
                annotators.check_labelled(labels, num_classes)
            return as_probabilities(labels, output.log_probs)
        checks.labels(labels, torch.Size([batch_size]), num_classes)
        if self.validate_args:
            checks.label_values(labels, num_classes)
        return labels

    def _loss_of_view(self, output: BalancerOutput, labels: Tensor) -> Tensor:
        """Return the loss of one view, with mixing if it has started."""
        concentration, partners = self.recipe.mixing, None
        if (
            self.training
            and concentration is not None
            and (self.progress >= self._mix_from or self.refurbishes)
        ):
            log_probs = output.log_probs
            partners = draw_partners(len(log_probs), concentration, log_probs.device)
        terms = self._equation(self, output, labels, partners)
        self.terms = LossTerms(*(each.detach() for each in terms))
        return terms.total

    def _terms(
        self, output: BalancerOutput, labels: Tensor, partners: Partners | None
    ) -> LossTerms:
        """Return the loss, after mixing with these partners; None: no mixing."""
        if partners is not None:
            soft = as_probabilities(labels, output.log_probs)
            output, labels = mix_with(partners, self.balancer, output, soft)
        return self.loss.compute(output, labels, self._log_prior)

    @torch.no_grad()
    def _refurbish(
        self, views: list[BalancerOutput], labels: Tensor, index: Tensor | None, update: bool
    ) -> Tensor:
        """Update the targets with the batch and return what to train on, (B, C)."""
        if index is None:
            raise ValueError(
                "`index` must be given in training: each sample's place in the training set, as "
                "returned by IndexedDataset; got None. Call criterion.eval() before a validation "
                "loss"
            )
        targets, all_labels, _ = self._kept
        if len(index) != len(views[0].log_probs):
            raise ValueError(
                f"`index` must be of the {len(views[0].log_probs)} samples of `output`; got "
                f"{len(index)}"
            )
        beliefs = [self._beliefs(view) for view in views]
        mean = beliefs[0] if len(beliefs) == 1 else torch.stack(beliefs).mean(0)
        refurbished = targets(index, labels, mean, update=update)
        if update:
            self._advance(targets.samples_met(len(labels)))
        epochs_done = int(self.progress)
        if self.refurbishes and epochs_done > self._epochs_judged:
            self._epochs_judged = epochs_done
            self._update_caution(targets, all_labels)
        return as_probabilities(labels, refurbished) if self.caution else refurbished

    def _beliefs(self, view: BalancerOutput) -> Tensor:
        """Return probabilities (B, C) under the class prior of the labels."""
        log_probs = view.log_probs
        if self._log_prior is not None:
            log_probs = log_probs + self._log_prior.to(log_probs)
        return numerics.softmax(log_probs)

    def _advance(self, samples: int) -> None:
        """Count progress; when held-back labels are released, decide on memorization."""
        end = self.targets.held_for * len(self.labels)
        is_end = self._samples_taken < end <= self._samples_taken + samples
        self._samples_taken += samples
        if is_end:
            self.targets.judge_memory()

    def _update_caution(self, targets: RefurbishedTargets, labels: Tensor) -> None:
        """Train on the labels as given while the model does not predict them; warn once."""
        seen = (targets.updates > 0).nonzero().squeeze(1)
        given = labels.to(seen.device)[seen]
        reason = ignorance(targets, seen, given, standard_errors=STANDARD_ERRORS)
        if reason and not self._has_warned:
            self._has_warned = True
            checks.warn(f"labels are trained on as given: {reason}")
        self.caution = reason

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "targets": self.targets.state_dict(),
            "plan": self._plan(),
            "schedule": (self.targets.held_for, self._mix_from),
            "released": self.targets._released,
            "cohorts": tuple(self.targets._cohorts),
            "samples_taken": self._samples_taken,
            "epochs_judged": self._epochs_judged,
            "caution": self.caution,
        }

    def _plan(self) -> dict[str, Any]:
        """Return the settings that must match between a checkpoint and the resumed training."""
        targets = self.targets
        stored = {"kept": targets.kept, "dtype": str(targets.averages.values.dtype)}
        return asdict(self.recipe) | stored

    def set_extra_state(self, state: Any) -> None:
        """Resume from a checkpoint, with its schedule.

        Raises:
            ValueError: if it has other labels, another recipe, `kept` or dtype; nothing is changed
                then.
        """
        given, here = state["targets"]["given"], self.targets.given
        if len(given) != len(here):
            hint = (
                ": repeat `add_samples` and `add_classes` first" if len(here) < len(given) else ""
            )
            raise ValueError(
                "`labels` must be those that the checkpoint was trained on; got "
                f"{len(here)} for {len(given)}{hint}"
            )
        others = int(differing(here, given.to(here.device)).sum())
        if others:
            raise ValueError(
                "`labels` must be those that the checkpoint was trained on; got "
                f"{others} others of {len(here)}"
            )
        # Before checkpoint format 6 all classes were stored.
        saved = {"kept": self.targets.num_classes} | renamed(state["plan"])
        for name, value in self._plan().items():
            if saved.get(name) != value:
                argument = name if name in ("dtype", "kept") else "recipe"
                raise ValueError(
                    f"`{argument}` must be as in the checkpoint; got {name} = {value!r} for "
                    f"{saved.get(name)!r}"
                )
        self.targets.held_for, self._mix_from = state["schedule"]
        self.targets.load_state_dict(state["targets"])
        self.targets._released = state.get("released", self.targets._released)
        first = state.get("first", len(here))  # what earlier checkpoints hold of the cohorts
        cohorts = state.get("cohorts", (first, len(here) - first))
        self.targets._cohorts = [count for count in cohorts if count]
        self._samples_taken = state["samples_taken"]
        self._epochs_judged = state["epochs_judged"]
        self.caution = state["caution"]

    def extra_repr(self) -> str:
        """Show the progress, and why labels are trained on as given if they are."""
        caution = f", caution={self.caution!r}" if self.caution else ""
        return f"epochs={self.epochs}, progress={self.progress:.2f}, recipe={self.recipe}{caution}"


def balancer_of(model: nn.Module) -> ReliabilityBalancer:
    """Return the balancer of a model.

    Raises:
        TypeError: if `model` is not a module.
        ValueError: if it holds no balancer or several.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}")
    found = [each for each in model.modules() if isinstance(each, ReliabilityBalancer)]
    if len(found) != 1:
        raise ValueError(
            "`model` must hold one ReliabilityBalancer, as a model returned by `wrap` does; got "
            f"{len(found)} in a {type(model).__name__}"
        )
    return found[0]


def _check_balancer_fields(recipe: Recipe, balancer: ReliabilityBalancer) -> None:
    """Require the balancer of this recipe, or one whose arguments overrode its own recipe."""
    models, built = get_recipe(balancer.recipe), balancer.settings()
    built["token_attention"] = built["attention"]
    ignored = [
        f"{name}={getattr(recipe, name)!r} for {built[name]!r}"
        for name in BALANCER_FIELDS
        if getattr(recipe, name) not in (getattr(models, name), built[name])
    ]
    if ignored:
        raise ValueError(
            "`recipe` must have the model's values of the fields that configure its balancer; got "
            f"{', '.join(ignored)}: pass the recipe to `wrap` or ReliabilityBalancer instead"
        )


def _check_finite_logits(name: str, logits: Tensor) -> None:
    """Require logits that leave each class possible, since refurbished targets do."""
    excluded = int((logits == -torch.inf).sum())
    if excluded:
        raise ValueError(
            f"`{name}.logits` must be finite, since refurbished targets give each class some "
            f"probability; got minus infinity for {excluded} of {logits.numel()}: mask classes by "
            "a large negative number, such as -30, in training"
        )
