"""The robust recipe in the Trainer of Hugging Face; needs the extra `huggingface`.

It is imported by its own name only.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance.files import open_atomically
from reliability_balance.indexed import KEY, IndexedDataset
from reliability_balance.robust_loss import RobustLoss, balancer_of
from reliability_balance.wrapping import WrappedClassifier

try:
    from transformers import Trainer, TrainingArguments
except ImportError as error:
    raise ImportError(
        "reliability_balance.transformers needs: pip install 'reliability-balance[huggingface]'"
    ) from error

FILE_NAME = "robust_loss.pt"
LABEL_COLUMNS = ("labels", "label")


class RobustTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that trains a wrapped model by :class:`RobustLoss`.

    It adds each sample's index to the training set, keeps the labels from the model, and gives the
    corrected log-probabilities as predictions, to ``compute_metrics`` too. The evaluation loss is
    that of the labels as they are. The criterion is saved as ``robust_loss.pt`` with the model in
    every checkpoint, and ``resume_from_checkpoint`` restores it. With ``load_best_model_at_end``
    the criterion keeps what it learned until the end.

    Samples must be dictionaries after the data collator, with "labels" among them. Turn gradient
    checkpointing on in the model, by ``model.model.gradient_checkpointing_enable()``.

    Args:
        model: as :func:`wrap` gives it.
        args: of the training. Accumulated batches count alike.
        train_dataset: map-style. It is wrapped by :class:`indexed.IndexedDataset`.
        criterion: None for a :class:`RobustLoss` of the model and the training set's labels, over
            the planned epochs. Then the labels must be in a column "labels" or "label" of a data
            set of Hugging Face, or under this key in a list of dictionaries.
        **options: go to the Trainer.

    Raises:
        TypeError: if `criterion` is no :class:`RobustLoss`, or the data set is iterable-style.
        ValueError: if `model` holds no balancer, or the criterion is of another model; if the
            labels are not found or are not those of the criterion; on options that would replace
            the criterion or the model, and on ``DataParallel``.
        FileNotFoundError: when a training is resumed from a checkpoint without a criterion.

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

    # The criterion gives means of batches, and the Trainer means of those that it accumulates.
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
        if train_dataset is not None and not isinstance(train_dataset, IndexedDataset):
            train_dataset = IndexedDataset(train_dataset)
        if criterion is None:
            labels = _proven_labels(train_dataset)
            criterion = RobustLoss(model, labels, epochs=_planned_epochs(args, len(labels)))
        elif not isinstance(criterion, RobustLoss):
            raise TypeError(f"`criterion` must be a RobustLoss; got {type(criterion).__name__}")
        elif criterion._model[0] is not balancer:
            raise ValueError("`criterion` must be made with `model`; got that of another model")
        elif train_dataset is not None and len(train_dataset) != len(criterion.targets.given):
            raise ValueError(
                f"`train_dataset` must hold the {len(criterion.targets.given)} samples whose "
                f"labels the criterion was made with; got {len(train_dataset)}"
            )
        super().__init__(model, args, train_dataset=train_dataset, **options)
        self.criterion = criterion
        # Neither can be read from the forward of a wrapped model.
        self.label_names = ["labels"]
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the criterion's loss, and the corrected log-probabilities if asked for.

        Args:
            model: to call.
            inputs: the model's, "labels", and in training "index".
            return_outputs: whether to return the predictions too, as {"logits": (B, C)}.
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
                f"`inputs` must hold {KEY!r} in training; got {', '.join(inputs)}: let "
                f"`data_collator` keep {KEY!r}"
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
        """Return loss, corrected log-probabilities and labels; without labels no loss.

        Args:
            model: to call.
            inputs: the model's, with or without "labels".
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
        """Save the model, and the criterion beside it; checkpoints are saved so, too.

        Args:
            output_dir: None for that of the arguments.
        """
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            with open_atomically(folder / FILE_NAME) as file:
                torch.save(self.criterion.state_dict(), file)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Go on with model and criterion."""
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
        """Keep the columns of the model within, the labels and the index."""
        if self._signature_columns is None:
            network: Any = self.model
            if isinstance(network, WrappedClassifier):
                network = network.model
            if hasattr(network, "get_base_model"):  # adapters of peft
                network = network.get_base_model()
            names = list(inspect.signature(network.forward).parameters)
            self._signature_columns = [*names, "labels", "label", "label_ids", KEY]


def _check_arguments(args: TrainingArguments) -> None:
    """Refuse arguments that cannot take effect.

    Raises:
        ValueError: on each.
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
            f"`args` must be for one GPU in each process; got {args.n_gpu}: start by torchrun, or "
            "set CUDA_VISIBLE_DEVICES"
        )


def _planned_epochs(args: TrainingArguments, num_samples: int) -> float:
    """How often an average sample will be seen."""
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return float(args.max_steps * samples / num_samples)


def _proven_labels(indexed: IndexedDataset | None) -> Tensor:
    """All labels of a training set whose column of labels can be read without a guess.

    Raises:
        ValueError: if there is no such column or several, or its values are no labels.
    """
    wanted = "give `criterion`, as RobustLoss(model, labels, epochs=...)"
    if indexed is None:
        raise ValueError(f"`train_dataset` must be given beside criterion=None; got None: {wanted}")
    dataset = indexed.dataset
    if hasattr(dataset, "column_names") and hasattr(dataset, "with_format"):
        names = [name for name in LABEL_COLUMNS if name in dataset.column_names]
        values = list(dataset.with_format(None)[names[0]]) if len(names) == 1 else None
    elif isinstance(dataset, Sequence) and all(isinstance(each, Mapping) for each in dataset):
        names = [name for name in LABEL_COLUMNS if any(name in each for each in dataset)]
        values = [each.get(names[0]) for each in dataset] if len(names) == 1 else None
    else:
        raise ValueError(
            "`train_dataset` must be a data set of Hugging Face or a list of dictionaries for its "
            f"labels to be found; got {type(dataset).__name__}: {wanted}"
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
