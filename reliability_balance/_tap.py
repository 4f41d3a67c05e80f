"""Find a model's embedding and read it as it passes."""

import threading
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]


class Tap:
    """Forward hook that keeps what passes one layer, for each thread that listens."""

    def __init__(self, side: Literal["input", "output"]) -> None:
        self.side = side
        self._seen: dict[int, Any] = {}

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        thread = _this_thread()
        if thread in self._seen:
            self._seen[thread] = args[0] if self.side == "input" else output

    def run(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Call the model: the embedding that passes, and what the model answers."""
        # No context manager of a generator: torch 2.6 does not trace one.
        thread = _this_thread()
        self._seen[thread] = None
        try:
            answer = first_tensor(model(*args, **kwargs), "the model's output")
            return _as_embedding(self._seen[thread]), answer
        finally:
            # Holding on to a graph would keep its memory, and forbid deepcopy and pickle.
            del self._seen[thread]


def _this_thread() -> int:
    """One model may serve many threads; a graph that is being traced belongs to none."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


def _as_embedding(seen: Any) -> Tensor:
    """What passed, as (B, D) or (B, T, D); a RuntimeError if nothing did."""
    if seen is None:
        raise RuntimeError(
            "the layer that gives the embedding did not run: the model was unwrapped, or "
            "another layer must be named as `embedding`"
        )
    embedding = first_tensor(seen, "the embedding layer's output")
    # A (B, D, H, W) feature map is H*W tokens of width D.
    return embedding.flatten(2).transpose(1, 2) if embedding.ndim == 4 else embedding


def first_tensor(output: Any, what: str) -> Tensor:
    """A tensor itself, the ``logits`` of a model's output object, or its first entry."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    entries = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(entries, (tuple, list)) and entries and isinstance(entries[0], Tensor):
        return entries[0]
    raise TypeError(f"{what} must be a tensor, or begin with one; got {type(output).__name__}")


def find_classifier(model: nn.Module) -> nn.Linear | None:
    """What timm's ``get_classifier`` tells, else the linear layer that was registered last."""
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier) and isinstance(classifier := get_classifier(), nn.Linear):
        return classifier
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def named_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name, or a ValueError that lists the names."""
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if name not in layers:
        raise ValueError(
            f"`embedding` must name a layer of the model; got {name!r}. "
            f"Layers: {layer_names(model)}"
        )
    return layers[name]


def layer_names(model: nn.Module, limit: int = 30) -> str:
    """The names of the last layers, for an error message."""
    names = [name for name, _ in model.named_modules() if name]
    more = f", … and {len(names) - limit} before" if len(names) > limit else ""
    return ", ".join(names[-limit:]) + more


def run_example(model: nn.Module, tap: Tap, example_input: ExampleInput) -> tuple[Tensor, Tensor]:
    """Embedding and logits of one batch, in eval mode, so that no running statistics move."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            embedding, logits = tap.run(model, *_arguments(example_input))
    finally:
        for module, mode in training.items():
            module.training = mode
    if embedding.ndim not in (2, 3):
        raise ValueError(
            "`embedding` must name a layer that gives (B, D), (B, T, D) or (B, D, H, W); "
            f"got {tuple(embedding.shape)}"
        )
    return embedding, logits


def _arguments(example_input: ExampleInput) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(example_input, Mapping):
        return (), example_input
    return (example_input if isinstance(example_input, tuple) else (example_input,)), {}


def check_is_last(model: nn.Module, classifier: nn.Linear, logits: Tensor) -> None:
    """Require that the model answers with as many values as the layer that was found."""
    if logits.shape[-1] != classifier.out_features:
        name = next(name for name, module in model.named_modules() if module is classifier)
        raise ValueError(
            f"`embedding` must name a layer, since the last linear layer, {name!r}, gives "
            f"{classifier.out_features} values, and the model {logits.shape[-1]}; got None. "
            f"Layers: {layer_names(model)}"
        )


def is_answer(classifier: nn.Linear, embedding: Tensor, logits: Tensor) -> bool:
    """Whether the model answers with what this layer makes of the embedding."""
    with torch.no_grad():
        answer = classifier(embedding)
    return answer.shape == logits.shape and torch.allclose(answer, logits, rtol=1e-3, atol=1e-3)


def without_gradient(model: nn.Module, embedding: Tensor) -> list[nn.Parameter]:
    """Parameters that the embedding does not depend on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not embedding.requires_grad:
        return parameters
    gradients = torch.autograd.grad(embedding.sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is None]
