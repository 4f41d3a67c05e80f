"""Where a model's embedding comes from: found, proven, and read at each call."""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reliability_balance import _checks
from reliability_balance._reading import Reading, find_reading, pool
from reliability_balance._tap import Passage, Side, Tap, find_answer

MASK_ARGUMENT = "attention_mask"
PARALLEL = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


class Embedded(NamedTuple):
    """An embedding (B, D) or (B, T, D), the model's logits (B, C), and a token mask (B, T)."""

    embedding: Tensor
    logits: Tensor | None = None
    token_mask: Tensor | None = None


class EmbeddingSource:
    """Reads the embedding of one layer, and proves that it is the one behind the model's answer.

    Args:
        model: the classifier.
        layer_name: as in ``model.named_modules()``.
        side: "input" of the model's last linear layer, or "output" of any layer.
        channels: the axis of the embedding's width: -1, or 1 of channels-first feature maps.
        output: which part of the model's output holds the logits.
        token_mask: the call's argument that tells tokens from padding; None if all are tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        layer_name: str,
        *,
        side: Side,
        channels: int = -1,
        output: str | int | None = None,
        token_mask: str | None = MASK_ARGUMENT,
    ) -> None:
        self.layer_name = layer_name
        self.side = side
        self.channels = channels
        self.output = output
        self.token_mask = token_mask
        self.layer = layer_named(model, layer_name)
        self.reading: Reading | None = None
        self._mask_position = _position(model, token_mask)
        self._tap = Tap(side)
        self._handle = self.layer.register_forward_hook(self._tap, with_kwargs=True)
        self.is_attached = True

    def settings(self) -> dict[str, Any]:
        """What a checkpoint keeps to attach another model of the kind alike."""
        return {
            "layer": self.layer_name,
            "side": self.side,
            "channels": self.channels,
            "output": self.output,
            "token_mask": self.token_mask,
        }

    def read(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], wants_logits: bool
    ) -> Embedded:
        """Call the model, and return what passed the layer and, if wanted, the model's logits."""
        passages, given = self._tap.run(model, args, kwargs)
        passage = self._only(model, passages)
        if self.side == "output":
            return self._read_output(passage, given, args, kwargs, wants_logits)
        answer = find_answer(given, self.output)
        value = passage.value
        mask = self._mask(value, args, kwargs) if value.ndim > 2 else None
        reading = self.reading or self._prove(model, passage, answer, mask)
        scores = reading.activate(passage.result)
        logits = None
        if wants_logits:
            # The softmax of a model that ends in one must not be taken twice.
            softmaxed = reading.activation == "softmax"
            raw = passage.result
            logits = pool(reading.pooling, raw, scores, answer, mask) if softmaxed else answer
        if reading.pooling == "mean":
            return Embedded(value.flatten(1, -2), logits, mask)
        return Embedded(pool(reading.pooling, value, scores, answer, mask), logits)

    def remove(self) -> None:
        """Take the hook off the layer."""
        self._handle.remove()
        self.is_attached = False

    def __repr__(self) -> str:
        name = repr(self.layer_name) if self.layer_name else "the model"
        if self.side == "output":
            return f"output of {name}, not checked against the model's answer"
        if self.reading is None:
            return f"input of {name}, to be checked at the first call"
        how = {"vector": "", "token": " for the token that it picks", "mean": " averaged"}
        return f"input of {name}, which gives the model's answer{how[self.reading.pooling]}"

    def _read_output(
        self,
        passage: Passage,
        given: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        wants_logits: bool,
    ) -> Embedded:
        embedding = as_embedding(passage.value, self.channels)
        rows = _rows(given, self.output)
        is_sequence_first = getattr(self.layer, "batch_first", True) is False
        if is_sequence_first or rows not in (None, len(embedding)):
            raise ValueError(
                "`embedding` must name a layer whose first axis is the batch"
                f"{'' if rows is None else f', of {rows}'}; got {self.layer_name!r} with "
                f"{tuple(passage.value.shape)}"
            )
        mask = self._mask(embedding, args, kwargs) if embedding.ndim > 2 else None
        if not wants_logits:
            return Embedded(embedding, token_mask=mask)
        answer = find_answer(given, self.output)
        if not self._tap.is_checked and _checks.can_read_values():
            _refuse_probabilities(answer)
            self._tap.is_checked = True
        return Embedded(embedding, answer, mask)

    def _prove(
        self, model: nn.Module, passage: Passage, answer: Tensor, mask: Tensor | None
    ) -> Reading:
        """Find how the model answers from what the layer gives, once."""
        if not _checks.can_read_values():
            # While a graph is traced there are no values, but one tensor is still itself.
            if passage.result is answer and answer.ndim == 2:
                return Reading("vector", "none")
            raise RuntimeError(
                f"`model` must be called once before it is compiled or exported, or wrapped with "
                f"`example_input`: what {self.layer_name!r} gives is not the model's answer itself"
            )
        reading = prove(passage, answer, mask)
        if reading is None:
            raise ValueError(_mismatch(model, self.layer_name, passage, answer))
        if len(answer):
            self.accept(reading)
        return reading

    def accept(self, reading: Reading) -> None:
        """Take a reading as proven."""
        self.reading = reading
        self._tap.is_checked = True

    def _only(self, model: nn.Module, passages: list[Passage]) -> Passage:
        """The one passage there may be; a RuntimeError says why there is none, or more."""
        name = f"layer {self.layer_name!r}, which gives the embedding,"
        if len(passages) > 1:
            raise RuntimeError(
                f"{name} ran {len(passages)} times in one call: name a layer that runs once as "
                "`embedding`, or call the wrapped model once for each input"
            )
        if not passages:
            if not self.is_attached:
                why = "the model was unwrapped"
            elif compiled_part(model, self.layer) is not None:
                why = "a part of the model was compiled: compile the wrapped model instead"
            else:
                why = "another layer must be named as `embedding`"
            raise RuntimeError(f"{name} did not run: {why}")
        (passage,) = passages
        if not passage.has_graph and torch.is_grad_enabled() and model.training:
            head = {id(parameter) for parameter in self.layer.parameters()}
            if any(p.requires_grad and id(p) not in head for p in model.parameters()):
                raise RuntimeError(
                    f"{name} ran without gradients, as under reentrant checkpointing or no_grad, "
                    "so nothing before it would train: checkpoint with use_reentrant=False, or "
                    "freeze what is not to train by requires_grad_(False)"
                )
        return passage

    def _mask(
        self, tokens: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor | None:
        """Which of (B, ..., D) tokens are no padding, (B, T) bool; None for all."""
        if self.token_mask is None:
            return None
        mask = kwargs.get(self.token_mask)
        if mask is None and self._mask_position is not None and self._mask_position < len(args):
            mask = args[self._mask_position]
        for each in args:
            if mask is None and isinstance(each, Mapping):
                mask = each.get(self.token_mask)
        if mask is None:
            return None
        shape = (len(tokens), math.prod(tokens.shape[1:-1]))
        if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.shape != shape:
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
            raise ValueError(
                f"`token_mask` must name an argument with a bool or int (B, T) = {shape}, 1 for "
                f"tokens and 0 for padding, or be None if all are tokens; got {self.token_mask!r} "
                f"with {got}"
            )
        return mask.bool()


def prove(passage: Passage, answer: Tensor, mask: Tensor | None) -> Reading | None:
    """Find how a layer's result became the model's answer; None if it did not."""
    if passage.result_copy is None:
        return None
    return find_reading(passage.value, passage.result_copy, answer, mask)


def as_embedding(value: Tensor, channels: int) -> Tensor:
    """A (B, D) vector, or (B, ..., D) and channels-first (B, D, ...) maps as (B, T, D) tokens."""
    if value.ndim < 2:
        raise ValueError(
            "`embedding` must name a layer that gives (B, D), tokens or a feature map; "
            f"got {tuple(value.shape)}"
        )
    return value if value.ndim == 2 else value.movedim(channels, -1).flatten(1, -2)


def find_classifier(model: nn.Module) -> tuple[str, nn.Module] | None:
    """What timm's ``get_classifier`` names, else the linear layer that was registered last.

    Where a transformers model tells its number of labels, the last of that width.
    """
    layers = dict(linear_layers(model))
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        told = get_classifier()
        for name, layer in model.named_modules():
            if layer is told and (name in layers or isinstance(layer, nn.Identity)):
                return name, layer
    num_labels = getattr(getattr(model, "config", None), "num_labels", None)
    fitting = [place for place in layers.items() if place[1].out_features == num_labels]
    candidates = fitting or list(layers.items())
    return candidates[-1] if candidates else None


def num_outputs(layer: nn.Module) -> int:
    """How many values a linear layer gives."""
    return int(layer.out_features)  # type: ignore[arg-type]  # one of `linear_layers` has it


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers of any kind, by name; of adapters and other compounds the outermost."""
    outer: nn.Module | None = None
    for name, module in model.named_modules():
        if outer is not None and any(module is part for part in outer.modules()):
            continue
        sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if all(isinstance(size, int) for size in sizes):
            outer = module
            yield name, module


def own_parameters(model: nn.Module, layer: nn.Module) -> list[nn.Parameter]:
    """Parameters of a layer that no other part of the model uses."""
    inside = set(layer.modules())
    others = (module for module in model.modules() if module not in inside)
    shared = {id(p) for module in others for p in module.parameters(recurse=False)}
    return [parameter for parameter in layer.parameters() if id(parameter) not in shared]


def layer_named(model: nn.Module, name: str) -> nn.Module:
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


def refuse_unwrappable(model: nn.Module) -> None:
    """Require a plain model: neither parallel, nor wrapped already, nor a script."""
    for name, module in model.named_modules():
        where = f"part {name!r} is" if name else "the model is"
        kinds = {kind.__name__ for kind in type(module).__mro__} & PARALLEL
        if kinds:
            raise ValueError(
                f"`model` must be wrapped before it is made parallel; got a model of which {where} "
                f"a {kinds.pop()}"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"`model` must not be a script; got a model of which {where} one")
        if any(isinstance(hook, Tap) for hook in module._forward_hooks.values()):
            raise ValueError(
                f"`model` must not be wrapped already; got a model of which {where} read by "
                "another wrapper: call its unwrap() first"
            )


def compiled_part(model: nn.Module, layer: nn.Module) -> str | None:
    """The name of a compiled part that holds the layer, and so hides it from hooks."""
    for name, module in model.named_modules():
        is_compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        if is_compiled and any(part is layer for part in module.modules()):
            return name or type(module).__name__
    return None


def _position(model: nn.Module, argument: str | None) -> int | None:
    """Where a call has this argument, if it is given by position."""
    names = list(inspect.signature(model.forward).parameters)
    return None if argument is None or argument not in names else names.index(argument)


def _rows(given: Any, output: str | int | None) -> int | None:
    """How many samples a model answered for, if its answer is found."""
    try:
        answer = find_answer(given, output)
    except TypeError:
        return None
    return len(answer) if answer.ndim else None


def _refuse_probabilities(answer: Tensor) -> None:
    """Require logits, of which some are negative or a row does not sum to one."""
    sums = answer.sum(-1, dtype=torch.float32)
    if len(answer) and bool((answer >= 0).all()) and bool(((sums - 1).abs() < 1e-2).all()):
        raise ValueError(
            "`keep_head` needs a model that answers with logits; got probabilities, rows that are "
            "non-negative and sum to 1: name the logits by `output`, or take keep_head=False"
        )


def _mismatch(model: nn.Module, name: str, passage: Passage, answer: Tensor) -> str:
    """What differs between a model's answer and what its last layer gives."""
    gave = passage.result
    shape = tuple(gave.shape) if isinstance(gave, Tensor) else type(gave).__name__
    if answer.ndim != 2:
        what = f"the model must answer with (B, C); got {tuple(answer.shape)}"
    elif isinstance(gave, Tensor) and gave.shape == answer.shape:
        what = f"the last linear layer, {name!r}, gives other values than the model"
    else:
        what = f"the last linear layer, {name!r}, gives {shape}, the model {tuple(answer.shape)}"
    return (
        f"`embedding` must name a layer, since {what}; got None. Name the layer whose output is "
        "the embedding ('' for a model that is a feature extractor), or give `example_input`, so "
        f"that all linear layers are tried. Layers: {layer_names(model)}"
    )
