"""Run one example through a model to find the layer that holds its embedding."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reliability_balance.wrapping.source import EmbeddingSource, find_classifier, linear_layers
from reliability_balance.wrapping.tap import find_answer, only_tensor

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]
Layout = Literal["channels_first", "channels_last"]

LAYOUTS: tuple[Layout, ...] = ("channels_first", "channels_last")
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.GroupNorm,
)
# These keep each value in its place, so both sides have the same layout.
ELEMENTWISE = (
    nn.Identity,
    nn.modules.dropout._DropoutNd,
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.Hardswish, nn.Mish, nn.SiLU),
    *(nn.Sigmoid, nn.Softplus, nn.Tanh),
)
# Some subclasses of LayerNorm normalise channels first; all state the number of channels.
NORMS = (nn.LayerNorm, nn.RMSNorm)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set eval mode with gradients, which moves no running statistics; restore modes after."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def call_arguments(example_input: ExampleInput) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the positional and keyword arguments that an example is called with."""
    if isinstance(example_input, Mapping):
        return (), example_input
    return (example_input if isinstance(example_input, tuple) else (example_input,)), {}


def prove_classifier(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    output: str | int | None,
    token_mask: str | None,
) -> tuple[EmbeddingSource, Tensor]:
    """Find the linear layer that gives the model's logits; return it with the example's embedding.

    Raises:
        TypeError: if the model's output holds several tensors and `output` is None.
        ValueError: if no linear layer gives the logits, or more than one does.
    """
    with torch.no_grad():
        prediction = find_answer(model(*args, **kwargs), output)
    first = find_classifier(model)
    layers = dict(linear_layers(model))
    names = [name for name in layers if layers[name].out_features == prediction.shape[-1]]
    if first is not None and first[0] in layers:
        names = [first[0], *(name for name in names if name != first[0])]
    proven: list[tuple[EmbeddingSource, Tensor]] = []
    problems: list[Exception] = []
    for name in names:
        source = EmbeddingSource(model, name, side="input", output=output, token_mask=token_mask)
        try:
            proven.append((source, source.read(model, args, kwargs, is_example=True).embedding))
        except Exception as problem:  # another layer may fit
            source.tap.release()
            problems.append(problem)
        if proven and name == names[0]:
            break
    if len(proven) == 1:
        return proven[0]
    for source, _ in proven:
        source.tap.release()
    if proven:
        among = ", ".join(repr(source.layer_name) for source, _ in proven)
        raise ValueError(
            "`embedding` must name a layer, since several linear layers give the model's logits: "
            f"{among}; got None"
        )
    if problems:
        raise problems[0]
    raise ValueError("`embedding` must name a layer, since the model has no linear layer; got None")


def ends_in_linear(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    output: str | int | None,
    token_mask: str | None,
) -> bool:
    """Return whether one linear layer gives the model's logits."""
    try:
        source, _ = prove_classifier(model, args, kwargs, output=output, token_mask=token_mask)
    except Exception:
        return False
    source.tap.release()
    return True


def logits_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: str | int | None
) -> Tensor | None:
    """Return a model's logits, or None if it gives none."""
    try:
        return find_answer(model(*args, **kwargs), output)
    except TypeError:
        return None


def channel_axis(
    model: nn.Module,
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    layout: Layout | None,
) -> int:
    """Return the axis of a layer's output that is the embedding's width: -1, or 1.

    It is inferred from the layers that produce or consume this tensor, across activations.

    Raises:
        ValueError: if these layers do not decide it and `layout` is None.
    """
    if layout is not None:
        return 1 if layout == "channels_first" else -1
    outputs: list[Tensor] = []
    touched: list[tuple[nn.Module, list[Tensor]]] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], result: Any) -> None:
        if module is layer:
            outputs.append(only_tensor(result, "the embedding layer"))
        touched.append((module, [each for each in (*inputs, result) if isinstance(each, Tensor)]))

    handles = [
        module.register_forward_hook(record)
        for module in model.modules()
        if module is layer or not list(module.children())
    ]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    if not outputs or outputs[-1].ndim < 3:
        return -1  # nothing to decide; errors are raised where the layer is read
    value = outputs[-1]
    axes = _axes_around(value, touched)
    if len(axes) == 1:
        return axes.pop()
    raise ValueError(
        f"`layout` must be one of {', '.join(map(repr, LAYOUTS))}, since the model's layers do "
        f"not show which axis of the output {tuple(value.shape)} is the embedding's; got None"
    )


def _axes_around(value: Tensor, touched: list[tuple[nn.Module, list[Tensor]]]) -> set[int]:
    """Return the feature axes according to the layers next to a tensor, across activations."""
    connected, count = {id(value)}, 0
    while len(connected) > count:
        count = len(connected)
        for module, tensors in touched:
            if isinstance(module, ELEMENTWISE) and any(id(each) in connected for each in tensors):
                connected |= {id(each) for each in tensors}
    near = (module for module, tensors in touched if any(id(each) in connected for each in tensors))
    return {axis for module in near for axis in _axis_of(module, value)}


def _axis_of(module: nn.Module, value: Tensor) -> tuple[int, ...]:
    """Return the feature axis of a layer's input and output, if its type determines it."""
    if isinstance(module, CHANNELS_FIRST):
        return (1,)
    if isinstance(module, NORMS) and len(module.normalized_shape) == 1:
        (width,) = module.normalized_shape
        return tuple(axis for axis in (1, -1) if value.shape[axis] == width != value.shape[-axis])
    return (-1,) if type(module) is nn.Linear else ()


def without_gradient(model: nn.Module, embedding: Tensor) -> list[str]:
    """Return the names of trainable parameters that an embedding does not depend on."""
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not embedding.requires_grad or not names:
        return list(names)
    total = embedding.sum()
    gradients = torch.autograd.grad(
        total, list(names.values()), allow_unused=True, retain_graph=True
    )
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
