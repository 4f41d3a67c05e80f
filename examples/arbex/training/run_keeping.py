"""Files of a run during training: resume point, best model, history; and progress."""

import csv
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from tqdm import tqdm

from examples.arbex.training.run_identity import IDENTITY
from examples.result_files import save_tensors, save_text
from reliability_balance.backbones.weights import check_sums

MONITORED = "validation_accuracy"
STOPPING = b"""
stopping after this batch; once more stops at once, and loses the training since the last resume
point
"""
RESUME_KEYS = {
    *("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops"),
    *("epoch", "global_step", "pytorch-lightning_version", IDENTITY),
}


class TrainingInterrupted(Exception):  # noqa: N818 - it is not an error
    """Training was stopped by a signal.

    Args:
        number: the signal.
        lost: steps since the last resume point. None: a resume point was written.
    """

    def __init__(self, number: int, lost: int | None) -> None:
        self.number = number
        self.lost = lost
        super().__init__(
            "stopped, and a resume point was written"
            if lost is None
            else f"stopped at once; steps since the last resume point, which are lost: {lost}"
        )


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints that are written atomically, and read without executing code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write the file, atomically.

        Raises:
            OSError: if it cannot be written; the previous resume point stays.
        """
        save_tensors(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values; reject everything else.

        Raises:
            ValueError: if the file is damaged, or not a resume point.
        """
        try:
            check_sums(Path(path))
            checkpoint = torch.load(path, map_location or "cpu", weights_only=True)
            missing = RESUME_KEYS - checkpoint.keys()
            if missing:
                raise ValueError(f"nothing at {', '.join(sorted(missing))}")
        except PermissionError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            reason = str(error).strip().split("\n")[0][:200]
            raise ValueError(
                f"{path} must be a resume point that `train` wrote; got: {reason}. Without it, "
                "--resume starts the run from the beginning"
            ) from error
        return cast(dict[str, Any], checkpoint)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


class RunKeeper(Checkpoint):
    """Callback that writes the resume point, the best model, and the metrics of each epoch.

    Args:
        checkpoint: file of the resume point, written each epoch and every `every` batches.
        history: CSV file of the epochs' metrics.
        save_best: called when the validation accuracy improves.
        every: batches between two resume points within an epoch.
    """

    def __init__(
        self, checkpoint: Path, history: Path, save_best: Callable[[], None], *, every: int
    ) -> None:
        self.checkpoint = checkpoint
        self.history = history
        self.save_best = save_best
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.best = float("-inf")
        self.stopped = False
        self._signal: int | None = None
        self._steps = 0
        self._saved_steps = 0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore an early stop and the signal handlers."""
        trainer.should_stop = self.stopped
        self._steps = self._saved_steps = trainer.global_step
        if signal.getsignal(signal.SIGINT) == self._request_stop:
            # Replace Lightning's own handler, which ends the process without an error.
            signal.signal(signal.SIGTERM, self._request_stop)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a resume point within the epoch, unless gradients are being accumulated."""
        self._steps = trainer.global_step
        done = batch_idx + 1
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        if self._asked_to_stop(trainer) or done % self.every < trainer.accumulate_grad_batches:
            self._save(trainer)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Write history, best model and resume point."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch + 1, **metrics})
        self.stopped = trainer.should_stop
        if metrics[MONITORED] > self.best:
            self.best = metrics[MONITORED]
            if trainer.is_global_zero:
                self.save_best()
        if trainer.is_global_zero:
            self._write_history()
        self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return history and best score so far."""
        return {"rows": self.rows, "best": self.best, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore history and best score."""
        self.rows = state_dict["rows"]
        self.best = state_dict["best"]
        self.stopped = state_dict["stopped"]

    @contextmanager
    def stopping_at_interrupt(self) -> Iterator[None]:
        """Finish the batch and write a resume point on Ctrl-C or SIGTERM; stop at once on a second.

        Raises:
            TrainingInterrupted: when training has stopped.
        """
        stops = (signal.SIGINT, signal.SIGTERM)
        previous = [(number, signal.signal(number, self._request_stop)) for number in stops]
        try:
            yield
        except SystemExit as error:  # raised by Lightning on both signals
            if self._signal is None:
                raise
            raise TrainingInterrupted(self._signal, self._steps - self._saved_steps) from error
        finally:
            for number, handler in previous:
                signal.signal(number, handler)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                return  # torchrun forwards each Ctrl-C, which its processes also receive themselves
            raise KeyboardInterrupt
        self._signal = number
        # Not print: the signal may have interrupted a write to its buffer.
        os.write(2, STOPPING)

    def _asked_to_stop(self, trainer: lightning.Trainer) -> bool:
        """Return whether any process was asked to stop: all must stop at the same batch."""
        return bool(trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False))

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.checkpoint)
        self._saved_steps = self._steps = trainer.global_step
        if self._asked_to_stop(trainer):
            raise TrainingInterrupted(self._signal or signal.SIGTERM, None)

    def _write_history(self) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        save_text(self.history, table.getvalue())


class Progress(Callback):
    """Progress bar of the whole run, with the remaining time."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Start the bar at the position of the run."""
        batches = int(trainer.num_training_batches)
        epoch, batch = module.position()  # type: ignore[operator]
        self._bar = tqdm(
            total=(trainer.max_epochs or 0) * batches,
            initial=epoch * batches + batch,
            unit="batch",
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the bar by one batch."""
        accuracy = trainer.callback_metrics.get(MONITORED)
        shown = {} if accuracy is None else {"validation": f"{100 * float(accuracy):.1f} %"}
        # Set here, since a resumed epoch has no start.
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.set_description(epoch, refresh=False)
        self._bar.set_postfix(loss=f"{float(outputs['loss']):.3f}", **shown, refresh=False)
        self._bar.update()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Close the bar."""
        self._bar.close()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Close the bar where training stopped."""
        if self._bar is not None:
            self._bar.close()
