"""A callback for Lightning; needs the extra `lightning`, and is imported by its own name only."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler

from reliability_balance.output import BalancerOutput
from reliability_balance.sampling import DataRefinementSampler
from reliability_balance.targets import RefurbishedTargets

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError(
        "reliability_balance.lightning needs: pip install 'reliability-balance[lightning]'"
    ) from error


def last_field(batch: Any) -> Tensor:
    """Return the last of a batch's fields: where :class:`RefurbishLabels` looks for the index."""
    if not isinstance(batch, tuple | list):
        raise TypeError(
            "`index_of` must be given unless a batch is a tuple or list with the index as its last "
            f"field; got a batch of type {type(batch).__name__}"
        )
    index: Tensor = batch[-1]
    return index


class RefurbishLabels(Callback):
    """Train any LightningModule on :class:`RefurbishedTargets` in the place of its labels.

    The module stays an ordinary one. Its training step calls its loss with the balancer's output
    and the labels; there this callback puts in the targets of the batch, and nowhere else: a
    validation step with the same loss sees its labels. The targets' state goes into every
    checkpoint and comes back with it. A step that calls its loss more than once, for several views
    or for SAM, counts as one update, by the predictions of the first call.

    Args:
        targets: of the whole training set; they follow the module to its device.
        criterion: name of the loss in the LightningModule, as in ``module.named_modules()``. It
            must be called with (output, labels).
        index_of: takes the samples' index (B,) in the training set from a batch.

    State:
        That of `targets`. It belongs to the callback and not to the module, so that
        DistributedDataParallel does not send it around; all ranks hold the same.

    Raises:
        AttributeError: when training starts, if the module has no such loss.
        TypeError: if the loss is not called with a :class:`BalancerOutput` and labels, or a batch
            has no last field and `index_of` is left out.
        ValueError: when training starts, if the trainer's epochs end within the targets' warm-up;
            in a step, if the index is wrong as :class:`RefurbishedTargets` can tell; after an epoch
            of a loader that gives each sample once, if less than half as many were seen.

    Example:
        >>> callback = RefurbishLabels(RefurbishedTargets(num_samples=100, num_classes=2))
        >>> trainer = Trainer(
        ...     callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False
        ... )
        >>> sorted(callback.state_dict())[:4]
        ['average', 'classes.moments', 'classes.shares', 'classes.tilt']
    """

    def __init__(
        self,
        targets: RefurbishedTargets,
        *,
        criterion: str = "criterion",
        index_of: Callable[[Any], Tensor] = last_field,
    ) -> None:
        self.targets = targets
        self.criterion = criterion
        self.index_of = index_of
        self._index: Tensor | None = None  # None outside a training batch
        self._is_counted = False  # whether the targets have taken this batch in
        self._given = 0  # samples of this epoch on this rank

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place before the loss."""
        # A debugging run may be as short as it likes.
        if trainer.max_epochs not in (None, -1) and not getattr(trainer, "fast_dev_run", False):
            self.targets.check_epochs(trainer.max_epochs - trainer.current_epoch)
        self.targets.to(pl_module.device)
        criterion = pl_module.get_submodule(self.criterion)
        self._handle = criterion.register_forward_pre_hook(self._refurbish)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note which samples these are."""
        self._index = self.index_of(batch)
        self._is_counted = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Leave what comes between the batches alone."""
        self._index = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the samples."""
        self._given = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an index by which far fewer samples were seen than were given."""
        self.targets.check_ranks()
        given = self._given * trainer.world_size
        seen = int((self.targets.updates > 0).sum())
        if _gives_each_sample_once(trainer.train_dataloader) and 2 * seen < given:
            raise ValueError(
                "`index_of` must give each sample's place in the training set; got only "
                f"{seen} different ones of {len(self.targets.updates)} in an epoch of {given} "
                "samples"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the loss as it was."""
        self._handle.remove()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the loss as it was."""
        self._index = None
        if hasattr(self, "_handle"):
            self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint keeps."""
        return dict(self.targets.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.targets.load_state_dict(state_dict)

    def _refurbish(self, criterion: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._index is None:
            return None
        if len(args) != 2 or not isinstance(args[0], BalancerOutput):
            given = ", ".join(type(each).__name__ for each in args)
            raise TypeError(
                f"`criterion` {self.criterion!r} must be called with (BalancerOutput, labels) by "
                f"position; got ({given})"
            )
        output, labels = args
        is_first, self._is_counted = not self._is_counted, True
        self._given += len(labels) if is_first else 0
        return output, self.targets(self._index, labels, output.corrected, update=is_first)


def _gives_each_sample_once(loader: Any) -> bool:
    """Whether that is known of a loader; a sampler of another kind may repeat samples."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement
    if isinstance(sampler, DataRefinementSampler):
        return False
    return isinstance(sampler, SequentialSampler | DistributedSampler)
