"""Run a model on labelled batches, and collect its outputs."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance.core.output import BalancerOutput, join_outputs, on_cpu

LABELS = ("labels", "index")  # keys of a batch that are not arguments of the model


@torch.no_grad()
def collect_outputs(
    model: nn.Module, loader: Iterable[Any]
) -> tuple[BalancerOutput | Tensor, Tensor]:
    """Return the outputs of all batches and their labels, on the CPU.

    The model runs in eval mode; its mode is restored afterwards.

    Args:
        model: gives a :class:`BalancerOutput`, or logits.
        loader: labelled batches: (inputs, labels), where later entries such as the samples' index
            are ignored; or a mapping with "labels", whose other entries except "index" are keyword
            arguments of the model. Labels are class indices. Inputs are a tensor, a tuple of
            arguments, or a mapping of keyword arguments, and are moved to the model's device.

    Shape:
        - logits: (B, C); returns an output or logits of all N samples, and labels (N,).

    Raises:
        TypeError: on any other batch or output of the model, or labels that are not indices.
        ValueError: if there is no batch, or on wrong shapes or labels.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    outputs: list[BalancerOutput] = []
    logits: list[Tensor] = []
    labels = []
    model.eval()
    try:
        for batch in loader:
            inputs, batch_labels = _inputs_and_labels(batch)
            output = _call(model, inputs, device)
            scores = scores_of(output)
            checks.indices("labels", batch_labels)
            checks.labels(batch_labels, scores.shape[:1], scores.shape[1])
            checks.label_values(batch_labels, scores.shape[1])
            if isinstance(output, BalancerOutput):
                outputs.append(on_cpu(output))
            else:
                logits.append(scores.cpu())
            labels.append(batch_labels.cpu())
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not labels:
        raise ValueError("`loader` must give at least 1 batch; got 0")
    return join_outputs(outputs) if outputs else torch.cat(logits), torch.cat(labels)


def scores_of(output: Any) -> Tensor:
    """Return the corrected log-probabilities of a :class:`BalancerOutput`, or logits as they are.

    Raises:
        TypeError: on any other output of a model.
        ValueError: on logits of another shape than (B, C).
    """
    if isinstance(output, BalancerOutput):
        return output.log_probs
    if not isinstance(output, Tensor):
        raise TypeError(
            f"`model` must give a BalancerOutput, or logits; got {type(output).__name__}"
        )
    checks.distributions("the model's logits", output)
    checks.rank("the model's logits", output, "(B, C)", 2)
    return output


def _inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """Split a batch into inputs and labels, ignoring the rest."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: batch[name] for name in batch if name not in LABELS}, batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return batch[0], batch[1]
    got = type(batch).__name__
    if isinstance(batch, Mapping):
        got += f" of {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, (tuple, list)):
        got += f" of {len(batch)}"
    raise TypeError(
        "`loader` must give batches (inputs, labels), (inputs, labels, ...) or a mapping with "
        f"'labels'; got {got}"
    )


def _call(model: nn.Module, inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return model(**{name: _moved(value, device) for name, value in inputs.items()})
    if isinstance(inputs, (tuple, list)):
        return model(*(_moved(value, device) for value in inputs))
    return model(_moved(inputs, device))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
