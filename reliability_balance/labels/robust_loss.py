"""The whole robust recipe as one loss: doubted labels, mixing, class frequencies, and when."""

import warnings
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.core.balancer import ReliabilityBalancer
from reliability_balance.core.class_prior import log_frequencies
from reliability_balance.core.losses import LossTerms, ReliabilityLoss
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.recipes import Recipe, RecipeName, get_recipe
from reliability_balance.labels import annotators, noise_estimate
from reliability_balance.labels.inspection import LabelRanking, rank_labels
from reliability_balance.labels.knowledge import ignorance
from reliability_balance.labels.mixing import mix
from reliability_balance.labels.posterior import as_probabilities
from reliability_balance.labels.ranks import world_size
from reliability_balance.labels.targets import RefurbishedTargets, _differing

# Of kappa, above which labels are doubted; a wrong doubt costs less than one that comes too late.
STANDARD_ERRORS = 2.5


class RobustLoss(nn.Module):
    r"""Train a wrapped model on labels of which some may be wrong; keep what was learned of them.

    .. code-block:: text

        output ---- for classes as frequent as in the labels --- targets of the labels' posteriors
           \                                                        |
            +------ mixed with other samples of the batch ----- ReliabilityLoss --- loss

    One object holds all that the recipe needs beside the model: the
    :class:`targets.RefurbishedTargets`, the classes' frequencies, :func:`mixing.mix`, and how far
    the training is. Nothing has to be told of the noise.

    At first labels stand, but for a tenth that the network is not shown; they are given back after
    half of the planned epochs, or ten. From ten epochs on each label is weighed against what the
    model made of the sample so far; in a shorter training only where the network knows the labels
    that it was shown better than the others, since one that learns nothing by heart does best with
    the labels as they are. Progress is counted in samples, so that an epoch may hold a part of
    them, or some more than once.

    Where beliefs do not tell the held-back labels better than class frequencies would, doubts would
    be at random: the labels stand as they are given, a warning says so once, and `caution` tells
    why. Each epoch looks again.

    Labels of several annotators (N, A) are weighed by each annotator's own noise matrix, which is
    learned along the way (`annotator_matrices`). Where single labels are needed, as in the warm-up,
    the targets are the shares of the votes.

    The model answers for evenly frequent classes, each counting alike. With
    :func:`class_prior.with_class_prior` and `class_prior` its answers are for classes as frequent
    as in the labels.

    Args:
        model: the wrapped model, or a :class:`ReliabilityBalancer` for stored embeddings; also
            within DistributedDataParallel, ``torch.compile`` or another module. It is not part of
            this module, and gets its `class_prior`.
        labels: all of the training set, as given.
        epochs: how often an average sample will be seen, > 0: the number of epochs, or where each
            holds a part of the samples, that part of it.
        recipe: None for the model's own; "robust", "paper" (the labels as they are, and nothing
            else), or a changed :class:`recipes.Recipe`.
        dtype: of what is kept of a sample; ``torch.float16`` is half.
        validate_args: whether to check values, which waits for the device.
        group: of the processes that train together; None for all.

    Shape:
        - labels: (N,) int64, or (N, C) floating probabilities, such as shares of votes, or (N, A)
          int64 with a column for each annotator and -1 where they gave no label
        - output: a :class:`BalancerOutput` of B samples; index: (B,) int64 in [0, N); returns ()

    Attributes:
        terms: the :class:`losses.LossTerms` of the last batch, or of its second view, detached.

    State:
        Its own under one name in ``state_dict``, of tensors and numbers: the targets, the progress
        and what was found. It follows the outputs to their device, and
        DistributedDataParallel does not send it around; all ranks hold the same.

    Raises:
        TypeError: on wrong types.
        ValueError: if the model holds no balancer or several, on wrong shapes or values, on a
            missing index, and on labels that are not those of the index.
        RuntimeError: as :class:`targets.RefurbishedTargets` does among processes.

    Warns:
        UserWarning: once, where the labels stand since the model tells nothing of them.

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
        dtype: torch.dtype = torch.float32,
        validate_args: bool = True,
        group: "torch.distributed.ProcessGroup | None" = None,
    ) -> None:
        super().__init__()
        checks.positive("epochs", epochs)
        balancer = balancer_of(model)
        self.recipe = get_recipe(balancer.recipe if recipe is None else recipe)
        self.epochs = epochs
        self.validate_args = validate_args
        num_classes = balancer.num_classes
        labels = _all_labels(labels, num_classes)
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
            num_annotators=labels.shape[1] if _is_of_annotators(labels) else 0,
            annotator_prior=self.recipe.annotator_prior,
            dtype=dtype,
            validate_args=validate_args,
            group=group,
        )
        targets.expect(labels)
        targets.plan = {"epochs": epochs, "recipe": self.recipe}
        even = torch.full((num_classes,), 1.0 / num_classes)
        prior = _frequencies(labels, num_classes) if self.recipe.even_classes else even
        # Labels are checked before, by the targets or as they are.
        self.loss = ReliabilityLoss(recipe=self.recipe, validate_args=False)
        # In tuples, lest they become submodules: the model is not this module's, and what is kept
        # of the samples is no buffer that DistributedDataParallel should send around.
        self._model = (balancer,)
        self._kept = (targets, labels, prior)
        self._group = group
        # A training that ends within the warm-up is mixed from when labels are doubted, or never.
        self._mix_from = (
            self.recipe.mix_from * self.recipe.warmup
            if epochs > self.recipe.warmup
            else float("inf")
        )
        self._samples_taken = 0
        self._epochs_judged = 0
        self._epochs_proven = -1
        self._has_warned = False
        self.caution = ""
        self._log_prior = log_frequencies(prior) if self.recipe.even_classes else None
        balancer.class_prior.copy_(prior)

    @property
    def balancer(self) -> ReliabilityBalancer:
        """That of the model, which this trains."""
        return self._model[0]

    @property
    def targets(self) -> RefurbishedTargets:
        """What was learned of the labels."""
        return self._kept[0]

    @property
    def class_prior(self) -> Tensor:
        """How frequent each class is in the labels as given (C,), or even by the recipe."""
        return self._kept[2]

    @property
    def progress(self) -> float:
        """How often an average sample was seen so far, by all processes."""
        return self._samples_taken / len(self._kept[1])

    @property
    def doubts(self) -> bool:
        """Whether labels of samples that were seen often enough are doubted by now."""
        return self.recipe.doubts_labels and self.progress > self.targets._doubts_from

    @property
    def noise_matrix(self) -> Tensor:
        """T (C, C), how samples of each class c were labelled: row c sums to one.

        Raises:
            ValueError: if labels are not doubted, or no sample was seen often enough.
        """
        self._require_doubts()
        self.targets.check_known()
        return self.targets.noise_matrix

    @property
    def annotator_matrices(self) -> Tensor | None:
        """T^a (A, C, C), how each annotator labels samples of each class c; None without them.

        Raises:
            ValueError: if labels are not doubted, or no sample was seen often enough.
        """
        if not self.targets.num_annotators:
            return None
        self._require_doubts()
        self.targets.check_known()
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

        In eval mode it is the loss of the labels as they are, which needs no index.

        Args:
            output: the model's.
            labels: the samples' labels, as given.
            index: which samples of the training set these are.
            second: the model's output for the same samples, augmented otherwise. Beliefs are then
                means over both views, the loss is the mean of both, and what the views disagree in
                (:func:`functional.disagreement`) is added.
            update: False where the same samples are judged once more in a step, as by SAM.

        Raises:
            TypeError: on wrong types.
            ValueError: on a missing index, on wrong shapes or values, on labels that are not those
                of the index, and where batches come more than once in a row.
        """
        check_output("output", output)
        self._follow(output.log_probs.device)
        views = [output]
        if second is not None:
            check_output("second", second)
            views.append(second)
        self._prove(views)
        if self.training and self.recipe.doubts_labels:
            wanted = self._refurbish(views, labels, index, update)
        else:
            wanted = self._as_given(labels, output, index if self.training else None)
            if self.training and update:
                self._samples_taken += len(labels) * world_size(self._group)
        loss = self._judge(output, wanted)
        if second is None:
            return loss
        loss = (loss + self._judge(second, wanted)) / 2
        return loss + self.recipe.consistency * RF.disagreement(output.log_probs, second.log_probs)

    def doubtful_labels(self) -> LabelRanking:
        """All labels that were trained on, the most doubtful first; see :func:`rank_labels`.

        Raises:
            ValueError: if no sample was seen.

        Warns:
            UserWarning: if the model knows too little for verdicts.
        """
        self._require_doubts()
        return rank_labels(self.targets, self._kept[1])

    def noise_rate(self, *, level: float = 0.95) -> noise_estimate.Interval:
        """The estimated share of wrong labels; see :func:`noise_estimate.estimate_noise`.

        Args:
            level: of the interval, in (0, 1).

        Raises:
            ValueError: if no sample was seen often enough.
        """
        self._require_doubts()
        targets, labels, _ = self._kept
        return noise_estimate.estimate_noise(targets, labels, level=level).rate

    def check_labels(self, labels: Tensor) -> None:
        """Require the labels that this was made with.

        Raises:
            ValueError: on others.
        """
        targets, own, _ = self._kept
        if len(labels) != len(own):
            raise ValueError(f"`labels` must be the criterion's {len(own)}; got {len(labels)}")
        targets.check_given(torch.arange(len(own)), labels.cpu())

    def _follow(self, device: torch.device) -> None:
        """Bring what is kept to the outputs' device; labels stay on the processor."""
        targets, labels, prior = self._kept
        if prior.device != device or targets.updates.device != device:
            self._kept = (targets.to(device), labels, prior.to(device))
            self._log_prior = None if self._log_prior is None else self._log_prior.to(device)

    def _require_doubts(self) -> None:
        if not self.recipe.doubts_labels:
            raise ValueError(
                "`recipe` must have doubts_labels=True to learn which labels are wrong; got False"
            )

    @torch.no_grad()
    def _prove(self, views: list[BalancerOutput]) -> None:
        """Require outputs of the model that this trains; once an epoch by their anchors, too.

        The model's record of class frequencies is put right where other weights were loaded.
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
        if int(self.progress) == self._epochs_proven:
            return
        anchors = balancer._anchor_points()
        for name, view in zip(("output", "second"), views, strict=False):
            if anchors is None or view.anchors is None:
                continue
            theirs = view.anchors.to(anchors)
            if theirs.shape != anchors.shape or not torch.allclose(theirs, anchors, atol=1e-2):
                raise ValueError(
                    f"`{name}` must be of the model that the criterion was made for; got one of "
                    "another model, whose anchors differ. Make a RobustLoss for each model, and "
                    "copy a model together with its criterion"
                )
        self._epochs_proven = int(self.progress)
        balancer.class_prior.copy_(self.class_prior)

    def _as_given(self, labels: Tensor, output: BalancerOutput, index: Tensor | None) -> Tensor:
        """Labels that are trained on as they are; of several annotators the shares of the votes."""
        if index is not None:
            checks.indices("index", index)
            if self.validate_args:
                checks.index_values("index", index, len(self._kept[1]))
                self.targets.check_given(index, labels)
        batch_size, num_classes = output.log_probs.shape
        if self.targets.num_annotators and _is_of_annotators(labels):
            annotators.check_labels(labels, batch_size, self.targets.num_annotators)
            if self.validate_args:
                annotators.check_labelled(labels, num_classes)
            return as_probabilities(labels, output.log_probs)
        checks.labels(labels, torch.Size([batch_size]), num_classes)
        if self.validate_args:
            checks.label_values(labels, num_classes)
        return labels

    def _judge(self, output: BalancerOutput, labels: Tensor) -> Tensor:
        """The loss of one view, mixed once it is time to."""
        concentration = self.recipe.mixing
        if (
            self.training
            and concentration is not None
            and (self.progress >= self._mix_from or self.doubts)
        ):
            soft = as_probabilities(labels, output.log_probs)
            output, labels = mix(self.balancer, output, soft, concentration=concentration)
        terms = self.loss._terms(output, labels, self._log_prior)
        self.terms = LossTerms(*(each.detach() for each in terms))
        return terms.total

    @torch.no_grad()
    def _refurbish(
        self, views: list[BalancerOutput], labels: Tensor, index: Tensor | None, update: bool
    ) -> Tensor:
        """Take the batch in and return what to train on, (B, C)."""
        if index is None:
            raise ValueError(
                "`index` must be given in training: each sample's place in the training set, as "
                "IndexedDataset gives it; got None. Call criterion.eval() before a validation loss"
            )
        targets, all_labels, _ = self._kept
        if len(index) != len(views[0].log_probs):
            raise ValueError(
                f"`index` must be of the {len(views[0].log_probs)} samples of `output`; got "
                f"{len(index)}"
            )
        beliefs = [self._beliefs(view) for view in views]
        mean = beliefs[0] if len(beliefs) == 1 else torch.stack(beliefs).mean(0)
        wanted = targets(index, labels, mean, update=update)
        if update:
            self._count(targets.samples_met(len(labels)))
        epochs_done = int(self.progress)
        if self.doubts and epochs_done > self._epochs_judged:
            self._epochs_judged = epochs_done
            self._judge_beliefs(targets, all_labels)
        return as_probabilities(labels, wanted) if self.caution else wanted

    def _beliefs(self, view: BalancerOutput) -> Tensor:
        """Probabilities (B, C) for classes as frequent as in the labels."""
        log_probs = view.log_probs
        if self._log_prior is not None:
            log_probs = log_probs + self._log_prior.to(log_probs)
        return RF._softmax(log_probs)

    def _count(self, samples: int) -> None:
        """Note progress; when held-back labels are given back, see what the network remembers."""
        end = self.targets.held_for * len(self._kept[1])
        is_end = self._samples_taken < end <= self._samples_taken + samples
        self._samples_taken += samples
        if is_end:
            self.targets.judge_memory()

    def _judge_beliefs(self, targets: RefurbishedTargets, labels: Tensor) -> None:
        """Let the labels stand while the model tells nothing of them, and say so once."""
        seen = (targets.updates > 0).nonzero().squeeze(1)
        given = labels.to(seen.device)[seen]
        reason = ignorance(targets, seen, given, standard_errors=STANDARD_ERRORS)
        if reason and not self._has_warned:
            self._has_warned = True
            warnings.warn(f"labels are trained on as given: {reason}", UserWarning, stacklevel=7)
        self.caution = reason

    def get_extra_state(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        return {
            "targets": self.targets.state_dict(),
            "plan": self._plan(),
            "schedule": (self.targets.held_for, self._mix_from),
            "samples_taken": self._samples_taken,
            "epochs_judged": self._epochs_judged,
            "caution": self.caution,
        }

    def _plan(self) -> dict[str, Any]:
        """What a checkpoint and the training that goes on from it must have in common."""
        return asdict(self.recipe) | {"dtype": str(self.targets.average.dtype)}

    def set_extra_state(self, state: Any) -> None:
        """Go on from a checkpoint, by the schedule that it was planned with.

        Raises:
            ValueError: if it is of other labels, or of another recipe or dtype; nothing has changed
                then.
        """
        given, here = state["targets"]["given"], self.targets.given
        if len(given) != len(here):
            raise ValueError(
                "`labels` must be those that the checkpoint was trained on; got "
                f"{len(here)} for {len(given)}"
            )
        others = int(_differing(here, given.to(here.device)).sum())
        if others:
            raise ValueError(
                "`labels` must be those that the checkpoint was trained on; got "
                f"{others} others of {len(here)}"
            )
        saved = state["plan"]
        for name, value in self._plan().items():
            if saved.get(name) != value:
                argument = "dtype" if name == "dtype" else "recipe"
                raise ValueError(
                    f"`{argument}` must be as in the checkpoint; got {name} = {value!r} for "
                    f"{saved.get(name)!r}"
                )
        self.targets.held_for, self._mix_from = state["schedule"]
        self.targets.load_state_dict(state["targets"])
        self._samples_taken = state["samples_taken"]
        self._epochs_judged = state["epochs_judged"]
        self.caution = state["caution"]

    def extra_repr(self) -> str:
        """Name how far the training is, and whether labels stand for a reason."""
        told = f", caution={self.caution!r}" if self.caution else ""
        return f"epochs={self.epochs}, progress={self.progress:.2f}, recipe={self.recipe}{told}"


def balancer_of(model: nn.Module) -> ReliabilityBalancer:
    """The balancer of a model.

    Raises:
        TypeError: if `model` is no module.
        ValueError: if it holds none or several.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}")
    found = [each for each in model.modules() if isinstance(each, ReliabilityBalancer)]
    if len(found) != 1:
        raise ValueError(
            "`model` must hold one ReliabilityBalancer, as a model that `wrap` gave does; got "
            f"{len(found)} in a {type(model).__name__}"
        )
    return found[0]


def _all_labels(labels: Tensor, num_classes: int) -> Tensor:
    """A copy of the labels on the CPU, where they are only looked up.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on a wrong shape, values, or fewer than 2 labels.
    """
    shape = torch.Size([len(labels)]) if isinstance(labels, Tensor) and labels.ndim else None
    if isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 1:
        missing = int((labels < 0).sum())
        if missing:
            raise ValueError(
                f"`labels` must be class indices in [0, {num_classes}); got {missing} below 0 of "
                f"{len(labels)}: leave samples without a label out, of the data set too"
            )
    if _is_of_annotators(labels):
        annotators.check_all(labels, num_classes)
    else:
        checks.labels(labels, torch.Size([0]) if shape is None else shape, num_classes)
        checks.label_values(labels, num_classes)
    if len(labels) < 2:
        raise ValueError(f"`labels` must be those of all samples, at least 2; got {len(labels)}")
    return labels.detach().cpu().clone()


def _is_of_annotators(labels: Tensor) -> bool:
    """Whether these are several annotators' labels: int64 with a column for each of them."""
    return isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 2


def _frequencies(labels: Tensor, num_classes: int) -> Tensor:
    """Shares of the classes (C,), and one label more of each, since a rare one may be missing."""
    if labels.is_floating_point() or labels.ndim == 2:
        like = torch.empty(0, num_classes)
        counts = RF.widen(as_probabilities(labels, like)).sum(0)
    else:
        counts = labels.bincount(minlength=num_classes).float()
    return (counts + 1.0) / (counts + 1.0).sum()
