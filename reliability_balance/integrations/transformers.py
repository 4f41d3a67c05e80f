"""The robust recipe in Hugging Face's Trainer; needs the extra `huggingface`.

Import this module by name; the package does not import it.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance.data.indexed import KEY, IndexedDataset, is_indexed
from reliability_balance.files import open_atomically
from reliability_balance.labels.fitting import check_epochs, check_is_new
from reliability_balance.labels.robust_loss import RobustLoss, balancer_of
from reliability_balance.wrapping.classifier import WrappedClassifier

try:
    from transformers import Trainer, TrainerCallback, TrainingArguments
except ImportError as error:
    raise ImportError(
        "reliability_balance.integrations.transformers needs: "
        "pip install '.[huggingface]' in the clone"
    ) from error

__all__ = ["RobustTrainer"]

FILE_NAME = "robust_loss.pt"
LABEL_COLUMNS = ("labels", "label")
# The Trainer calls the first that the model has; transformers 4 has only the second.
CHECKPOINTING = ("activation_checkpointing_enable", "gradient_checkpointing_enable")


class RobustTrainer(Trainer):  # type: ignore[misc]
    """Trainer that trains a wrapped model with :class:`RobustLoss`.

    It adds each sample's index to the training set, does not pass labels to the model, and returns
    the corrected log-probabilities as predictions, also to ``compute_metrics``. The evaluation loss
    uses the labels as given. Every checkpoint holds the criterion as ``robust_loss.pt``, and
    ``resume_from_checkpoint`` restores it. With ``load_best_model_at_end`` the criterion keeps its
    final state.

    After the data collator, samples must be dictionaries with "labels". Gradient checkpointing in
    `args` applies to the wrapped model.

    A criterion belongs to one training. To train again, create a new model and trainer, or resume
    from a checkpoint. If ``auto_find_batch_size`` restarts after an out-of-memory error, a
    criterion created by the trainer is created again.

    Args:
        model: from :func:`wrap`.
        args: training arguments. Accumulated batches have equal weight.
        train_dataset: map-style. It is wrapped by :class:`data.IndexedDataset`.
        criterion: a :class:`RobustLoss` whose epochs are those of the training, within 1 %. None: a
            new one for the model, the training labels and the planned epochs. Then the labels must
            be in a column "labels" or "label" of a Hugging Face data set, or under this key in a
            list of dictionaries.
        **options: passed to the Trainer.

    Raises:
        TypeError: if `criterion` is not a :class:`RobustLoss`, or the data set is iterable-style.
        ValueError: if `model` holds no balancer, or the criterion belongs to another model; if the
            labels are not found or are not those of the criterion; if the data set has an
            IndexedDataset inside; on options that would replace the criterion or the model; on
            ``DataParallel``. In training, if the criterion has been used already and the training
            does not resume, or if its epochs are not those of the training.
        FileNotFoundError: on resuming from a checkpoint without a criterion.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from reliability_balance import wrap
        >>> config = BertConfig(
        ...     vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        ...     intermediate_size=8, num_labels=2,
        ... )
        >>> model = wrap(BertForSequenceClassification(config))
        >>> samples = [{"input_ids": [1, 2 + i % 2, 4], "label": i % 2} for i in range(8)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     args = TrainingArguments(
        ...         folder, num_train_epochs=3, use_cpu=True, report_to=[], disable_tqdm=True
        ...     )
        ...     trainer = RobustTrainer(model, args, train_dataset=samples)
        ...     _ = trainer.train()
        {'train_runtime': ...}
        >>> trainer.criterion.progress
        3.0
    """

    # The criterion averages over a batch; the Trainer averages over accumulated batches.
    loss_is_scaled_for_ga = False
    _signature_columns: list[str] | None

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Any = None,
        criterion: RobustLoss | None = None,
        **options: Any,
    ) -> None:
        if model is None:
            raise ValueError(
                "`model` must be given, since the criterion belongs to one model; got None"
                + (" and `model_init`" if options.get("model_init") is not None else "")
            )
        balancer = balancer_of(model)
        if options.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` must be None, since the loss is the criterion's")
        if args is None:
            args = TrainingArguments()
        _check_arguments(args)
        _check_checkpointing(args, model)
        if train_dataset is not None and not isinstance(train_dataset, IndexedDataset):
            if is_indexed(train_dataset):
                raise ValueError(
                    "`train_dataset` must not hold an IndexedDataset within another; got a "
                    f"{type(train_dataset).__name__} of one: pass it without IndexedDataset, which "
                    "RobustTrainer adds, and a criterion for the labels of just these samples"
                )
            train_dataset = IndexedDataset(train_dataset)
        self._made: RobustLoss | None = None
        if criterion is None:
            labels = _read_labels(train_dataset)
            criterion = RobustLoss(model, labels, epochs=_planned_epochs(args, len(labels)))
            self._made = criterion
        elif not isinstance(criterion, RobustLoss):
            raise TypeError(f"`criterion` must be a RobustLoss; got {type(criterion).__name__}")
        elif criterion.balancer is not balancer:
            raise ValueError("`criterion` must be made with `model`; got that of another model")
        elif train_dataset is not None and len(train_dataset) != len(criterion.targets.given):
            raise ValueError(
                f"`train_dataset` must hold the {len(criterion.targets.given)} samples whose "
                f"labels the criterion was made with; got {len(train_dataset)}"
            )
        super().__init__(model, args, train_dataset=train_dataset, **options)
        self.criterion = criterion
        self._resumes = False
        self._starts = 0
        self.add_callback(_AtBegin(self))
        # The Trainer cannot infer these from the forward of a wrapped model.
        self.label_names = ["labels"]
        self.model_accepts_loss_kwargs = False

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any
    ) -> Any:
        """Train the model, from the start or from a checkpoint; see ``Trainer.train``.

        Args:
            resume_from_checkpoint: a checkpoint's folder; True: the last one in `output_dir`.
            *args: passed to the Trainer.
            **options: passed to the Trainer.

        Raises:
            ValueError: if the criterion has been used already and the training does not resume, or
                if its epochs are not those of the training.
            FileNotFoundError: if the checkpoint holds no criterion.
        """
        self._resumes = resume_from_checkpoint not in (None, False)
        self._starts = 0
        if not self._resumes:
            check_is_new(self.criterion)
        with _checkpointing_within(self.model):
            return super().train(resume_from_checkpoint, *args, **options)

    def _begin(self, max_steps: int, loader: Any) -> None:
        """Require a criterion that matches this training, once its steps are known.

        Raises:
            ValueError: if it does not.
        """
        self._starts += 1
        given = self.criterion.targets.given
        epochs = self._epochs_of(max_steps, loader, len(given))
        if self._starts > 1 and self.criterion.progress > 0:
            if self._resumes or self.criterion is not self._made:
                raise ValueError(
                    "`auto_find_batch_size` must be False where a training resumes or `criterion` "
                    "is given, since a restart needs a new criterion; got a restart with batches "
                    f"of {self._train_batch_size}: set per_device_train_batch_size to this size"
                )
            self._recreate(self.criterion.epochs if epochs is None else epochs)
        if epochs is None:
            return
        if self.criterion is self._made and self.criterion.progress == 0:
            if self.criterion.epochs != epochs:
                self._recreate(epochs)
        else:
            check_epochs(self.criterion, epochs)

    def _recreate(self, epochs: float) -> None:
        """Replace the criterion that the trainer created by a new one."""
        self.criterion = RobustLoss(self.model, self.criterion.labels, epochs=epochs)
        self._made = self.criterion

    def _epochs_of(self, max_steps: int, loader: Any, num_samples: int) -> float | None:
        """Return how often an average sample will be seen; None if the batch size varies."""
        size = getattr(loader, "batch_size", None)
        if not isinstance(size, int):
            size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
        try:
            batches = len(loader)
        except TypeError:
            return None
        if not isinstance(size, int) or batches < 1:
            return None
        total = getattr(loader, "total_batch_size", None) or size * self.args.world_size
        accumulate = self.args.gradient_accumulation_steps
        return _epochs(max_steps, batches, total, accumulate, num_samples, self.args.world_size)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the criterion's loss, and the corrected log-probabilities if asked for.

        Args:
            model: the model.
            inputs: of the model, with "labels", and in training "index".
            return_outputs: whether to also return the predictions, as {"logits": (B, C)}.
            num_items_in_batch: not used: the loss is a mean over the batch.

        Raises:
            ValueError: on missing labels; in training on a missing index.
        """
        inputs = dict(inputs)
        labels, index = inputs.pop("labels", None), inputs.pop(KEY, None)
        if labels is None:
            raise ValueError(f"`inputs` must hold 'labels'; got {', '.join(inputs)}")
        if model.training and index is None:
            raise ValueError(
                f"`inputs` must hold {KEY!r} in training; got {', '.join(inputs)}: "
                f"`data_collator` must keep {KEY!r}"
            )
        output = model(**inputs)
        self.criterion.train(model.training)
        loss = self.criterion(output, labels, index)
        return (loss, {"logits": output.log_probs}) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return loss, corrected log-probabilities and labels; the loss is None without labels.

        Args:
            model: the model.
            inputs: of the model, with or without "labels".
            prediction_loss_only: whether to leave the predictions out.
            ignore_keys: as for the Trainer; nothing is ignored.
        """
        if inputs.get("labels") is not None:
            step: tuple[Tensor | None, Tensor | None, Tensor | None] = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys
            )
            return step
        inputs = dict(self._prepare_inputs(inputs))
        inputs.pop(KEY, None)
        with torch.no_grad(), self.compute_loss_context_manager():
            log_probs = model(**inputs).log_probs
        return None, None if prediction_loss_only else log_probs, None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model and the criterion, as in checkpoints.

        The folder gets the wrapped model's weights as ``model.safetensors``, the criterion as
        ``robust_loss.pt``, and the arguments, but no configuration: ``from_pretrained`` does not
        read it. To load the weights, wrap the same model again:

        .. code-block:: python

            model = wrap(build())
            model.load_state_dict(safetensors.torch.load_file(f"{folder}/model.safetensors"))
            model.eval()

        The criterion is needed to resume training and to list doubtful labels, not to predict.

        Args:
            output_dir: the folder. None: that of the arguments.
        """
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            with open_atomically(folder / FILE_NAME) as file:
                torch.save(self.criterion.state_dict(), file)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Restore model and criterion."""
        path = Path(resume_from_checkpoint, FILE_NAME)
        if not path.is_file():
            raise FileNotFoundError(
                f"`resume_from_checkpoint` must hold {FILE_NAME}, as RobustTrainer saves it; got "
                f"{resume_from_checkpoint}"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.criterion.load_state_dict(state)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns of the wrapped model, the labels and the index."""
        if self._signature_columns is None:
            network: Any = self.model
            if isinstance(network, WrappedClassifier):
                network = network.model
            if hasattr(network, "get_base_model"):  # adapters of peft
                network = network.get_base_model()
            names = list(inspect.signature(network.forward).parameters)
            self._signature_columns = [*names, "labels", "label", "label_ids", KEY]


def _check_arguments(args: TrainingArguments) -> None:
    """Reject arguments that would have no effect.

    Raises:
        ValueError: if there are any.
    """
    if args.label_names not in (None, ["labels"]):
        raise ValueError(f"`label_names` must be None or ['labels']; got {args.label_names}")
    if args.label_smoothing_factor:
        raise ValueError(
            "`label_smoothing_factor` must be 0, since the recipe of the criterion has its own; "
            f"got {args.label_smoothing_factor}"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"`args` must be for one GPU in each process; got {args.n_gpu}: start with torchrun, "
            "or set CUDA_VISIBLE_DEVICES"
        )


def _check_checkpointing(args: TrainingArguments, model: nn.Module) -> None:
    """Reject gradient checkpointing if the model does not support it.

    Raises:
        ValueError: if it is requested.
    """
    wanted = args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)
    network = model.model if isinstance(model, WrappedClassifier) else model
    if wanted and not any(hasattr(network, name) for name in CHECKPOINTING):
        raise ValueError(
            "`gradient_checkpointing` must be False, since the model has no method "
            f"{CHECKPOINTING[1]}; got True with a {type(network).__name__}"
        )


@contextmanager
def _checkpointing_within(model: nn.Module) -> Iterator[None]:
    """Expose the wrapped model's checkpointing methods to the Trainer during training."""
    if not isinstance(model, WrappedClassifier):
        yield
        return
    names = [name for name in CHECKPOINTING if hasattr(model.model, name)]
    for name in names:
        model.__dict__[name] = getattr(model.model, name)
    try:
        yield
    finally:
        for name in names:
            model.__dict__.pop(name, None)


class _AtBegin(TrainerCallback):  # type: ignore[misc]
    """Callback that calls the trainer when training begins, with its number of steps."""

    def __init__(self, trainer: RobustTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: Any, control: Any, **options: Any
    ) -> None:
        self.trainer._begin(state.max_steps, options.get("train_dataloader"))


def _planned_epochs(args: TrainingArguments, num_samples: int) -> float:
    """Return how often an average sample will be seen.

    Raises:
        ValueError: if the last batch is dropped and there is no full one.
    """
    size, ranks = args.train_batch_size, args.world_size
    if args.dataloader_drop_last:
        batches = num_samples // size // ranks
        if batches == 0:
            raise ValueError(
                f"`train_dataset` must hold {size * ranks} samples for a step where "
                f"dataloader_drop_last=True; got {num_samples}"
            )
    else:
        batches = math.ceil(math.ceil(num_samples / size) / ranks)
    steps = args.max_steps
    if steps <= 0:
        updates = math.ceil(batches / args.gradient_accumulation_steps)
        steps = math.ceil(args.num_train_epochs * updates)
    accumulate = args.gradient_accumulation_steps
    return _epochs(steps, batches, size * ranks, accumulate, num_samples, ranks)


def _epochs(
    steps: int, batches: int, batch_size: int, accumulate: int, num_samples: int, ranks: int
) -> float:
    """Return the epochs of training steps; an epoch's last step may have fewer samples.

    Args:
        steps: optimizer steps in total.
        batches: batches of each process in an epoch.
        batch_size: samples of a batch, over all processes.
        accumulate: batches in a step.
        num_samples: size of the training set.
        ranks: number of processes; with several, all batches are full and some samples repeat.
    """
    most = batches * batch_size
    # The last batch has at least one sample; if it is dropped, `most` remain.
    samples = most if ranks > 1 else min(max(num_samples, most - batch_size + 1), most)
    whole, rest = divmod(steps, math.ceil(batches / accumulate))
    return (whole * samples + min(rest * accumulate * batch_size, samples)) / num_samples


def _read_labels(indexed: IndexedDataset | None) -> Tensor:
    """Return all labels of a training set, if its label column is unambiguous.

    Raises:
        ValueError: if there is no such column or several, or its values are not labels.
    """
    wanted = "pass `criterion`, as RobustLoss(model, labels, epochs=...)"
    if indexed is None:
        raise ValueError(f"`train_dataset` must be given with criterion=None; got None: {wanted}")
    dataset = indexed.dataset
    if hasattr(dataset, "column_names") and hasattr(dataset, "with_format"):
        names = [name for name in LABEL_COLUMNS if name in dataset.column_names]
        values = list(dataset.with_format(None)[names[0]]) if len(names) == 1 else None
    elif isinstance(dataset, Sequence) and all(isinstance(each, Mapping) for each in dataset):
        names = [name for name in LABEL_COLUMNS if any(name in each for each in dataset)]
        values = [each.get(names[0]) for each in dataset] if len(names) == 1 else None
    else:
        raise ValueError(
            "`train_dataset` must be a Hugging Face data set or a list of dictionaries, so that "
            f"its labels can be found; got {type(dataset).__name__}: {wanted}"
        )
    if values is None:
        raise ValueError(
            "`train_dataset` must have one column of labels, 'labels' or 'label'; got "
            f"{' and '.join(map(repr, names)) or 'neither'}: {wanted}"
        )
    try:
        return torch.tensor(
            [each.tolist() if isinstance(each, Tensor) else each for each in values]
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the column {names[0]!r} of `train_dataset` must hold class indices or probabilities; "
            f"got: {error}"
        ) from error
