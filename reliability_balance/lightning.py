"""A callback for Lightning; needs the extra `lightning`, and is imported by its own name only."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from reliability_balance.output import BalancerOutput
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
    index: Tensor = batch[-1]
    return index


class RefurbishLabels(Callback):
    """Train any LightningModule on :class:`RefurbishedTargets` in the place of its labels.

    The module stays an ordinary one. Its training step calls its loss with the balancer's output
    and the labels; there this callback puts in the targets of the batch, and nowhere else: a
    validation step with the same loss sees its labels. The targets' state goes into every
    checkpoint and comes back with it.

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
        TypeError: if the loss is not called with a :class:`BalancerOutput` and labels.

    Example:
        >>> callback = RefurbishLabels(RefurbishedTargets(num_samples=100, num_classes=2))
        >>> trainer = Trainer(
        ...     callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False
        ... )
        >>> sorted(callback.state_dict())
        ['average', 'classes.moments', 'classes.shares', 'classes.tilt', 'joint', 'updates']
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place before the loss."""
        self.targets.to(pl_module.device)
        criterion = pl_module.get_submodule(self.criterion)
        self._handle = criterion.register_forward_pre_hook(self._refurbish)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note which samples these are."""
        self._index = self.index_of(batch)

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
        return output, self.targets(self._index, labels, output.corrected)
