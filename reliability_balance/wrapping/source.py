"""Find, verify and read the layer that holds a model's embedding."""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance.wrapping.reading import Reading, find_readings, fits, pool
from reliability_balance.wrapping.tap import Passage, Side, Tap, find_answer

MASK_ARGUMENT = "attention_mask"
PARALLEL = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


class Embedded(NamedTuple):
    """An embedding (B, D) or (B, T, D), the model's logits (B, C), and a token mask (B, T)."""

    embedding: Tensor
    logits: Tensor | None = None
    token_mask: Tensor | None = None


class EmbeddingSource:
    """Reader of the embedding at one layer, which verifies that the model's logits come from it.

    Args:
        model: the classifier.
        layer_name: as in ``model.named_modules()``.
        side: "input" of the model's last linear layer, or "output" of any layer.
        channels: the axis of the embedding's width: -1, or 1 for channels-first feature maps.
        output: which part of the model's output holds the logits.
        token_mask: the call's argument that separates tokens from padding. None: no padding.
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
        self._mask_name = None if token_mask is None else token_mask.removeprefix("~")
        if token_mask is not None and "pad" in token_mask and not token_mask.startswith("~"):
            raise ValueError(
                f"`token_mask` must be '~{token_mask}' for a mask that is 1 for padding, or name "
                f"a mask that is 1 for tokens, without 'pad' in its name; got {token_mask!r}"
            )
        self._arguments, self._takes_any = _arguments_of(model, self._mask_name)
        self.tap = Tap(self.layer, side)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint needs to wrap another model of this kind in the same way."""
        return {
            "layer": self.layer_name,
            "side": self.side,
            "channels": self.channels,
            "output": self.output,
            "token_mask": self.token_mask,
        }

    def read(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        wants_logits: bool = False,
        is_training: bool = False,
        validate: bool = True,
        is_example: bool = False,
    ) -> Embedded:
        """Call the model; return the embedding and, if wanted, the model's logits.

        Args:
            model: the classifier.
            args: of the call.
            kwargs: of the call.
            wants_logits: whether to return the model's logits.
            is_training: whether gradients should reach the model.
            validate: whether to verify the layer at each call, not only at the first.
            is_example: whether all linear layers are tried, so that an error need not advise it.
        """
        passages, given = self.tap.run(model, args, kwargs)
        passage = self._only(model, passages, is_training)
        validate = validate and checks.can_read_values()
        if self.side == "output":
            return self._read_output(passage, given, args, kwargs, wants_logits, validate)
        prediction = find_answer(given, self.output)
        value = passage.value
        mask = self._mask(value, args, kwargs, is_needed=False) if value.ndim > 2 else None
        reading = self._reading_of(model, passage, prediction, mask, validate, is_example)
        scores = reading.activate(passage.result)
        logits = None
        if wants_logits:
            # Of a model that ends in a softmax, take what enters it.
            softmaxed = reading.activation == "softmax"
            raw = passage.result
            logits = (
                pool(reading.pooling, raw, scores, prediction, mask) if softmaxed else prediction
            )
        if reading.pooling == "mean":
            mask = self._mask(value, args, kwargs)
            return Embedded(value.flatten(1, -2), logits, mask)
        return Embedded(pool(reading.pooling, value, scores, prediction, mask), logits)

    def __repr__(self) -> str:
        name = repr(self.layer_name) if self.layer_name else "the model"
        if self.side == "output":
            mask = f", tokens by {self.token_mask!r}" if self.token_mask else ""
            return f"output of {name}, not checked against the model's logits{mask}"
        if self.reading is None:
            return f"input of {name}, to be checked at the first call"
        how = {"vector": "", "token": " at the token that it picks", "mean": ", averaged"}
        return f"input of {name}, which gives the model's logits{how[self.reading.pooling]}"

    def _read_output(
        self,
        passage: Passage,
        given: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        wants_logits: bool,
        validate: bool,
    ) -> Embedded:
        embedding = as_embedding(passage.value, self.channels)
        rows = _rows(given, self.output)
        if _is_sequence_first(self.layer) or rows not in (None, len(embedding)):
            raise ValueError(
                "`embedding` must name a layer whose first axis is the batch"
                f"{'' if rows is None else f', of {rows}'}; got {self.layer_name!r} with "
                f"{tuple(passage.value.shape)}"
            )
        mask = self._mask(embedding, args, kwargs) if embedding.ndim > 2 else None
        if not wants_logits:
            return Embedded(embedding, token_mask=mask)
        prediction = find_answer(given, self.output)
        if validate:
            _refuse_probabilities(prediction)
        return Embedded(embedding, prediction, mask)

    def _reading_of(
        self,
        model: nn.Module,
        passage: Passage,
        prediction: Tensor,
        mask: Tensor | None,
        validate: bool,
        is_example: bool,
    ) -> Reading:
        """Return how the model's logits follow from the layer's output, verified if possible."""

        def mismatch(is_sound: bool) -> str:
            return _mismatch(
                model,
                self.layer_name,
                passage,
                prediction,
                is_sound=is_sound,
                is_example=is_example,
            )

        is_sound = isinstance(passage.result, Tensor) and passage.is_unchanged(validate=validate)
        if not is_sound or not fits(passage.value, passage.result, prediction):
            raise ValueError(mismatch(is_sound))
        if passage.result is prediction:
            self.reading = self.reading or Reading("vector", "none")
            return Reading("vector", "none")
        if validate and len(prediction):
            if bool(prediction.isnan().any()):
                raise ValueError("`model` must give logits without NaN; got NaN")
            readings = find_readings(passage.value, passage.result, prediction, mask)
            if not readings:
                raise ValueError(mismatch(True))
            # With a single token, picking and averaging look alike: a later call decides.
            if len(readings) == 1:
                self.reading = readings[0]
            return readings[0]
        if self.reading is not None:
            return self.reading
        if not len(prediction):
            return Reading("vector" if passage.value.ndim == 2 else "mean", "none")
        raise RuntimeError(
            "`model` must be called once before it is compiled, exported or run with "
            "validate_args=False, or wrapped with `example_input`: the output of "
            f"{self.layer_name!r} is not the model's output itself"
        )

    def _only(self, model: nn.Module, passages: list[Passage], is_training: bool) -> Passage:
        """Return the layer's only call, or raise a RuntimeError that says why it is not one."""
        name = f"layer {self.layer_name!r}, which gives the embedding,"
        if len(passages) > 1:
            raise RuntimeError(
                f"{name} ran {len(passages)} times in one call: name a layer that runs once as "
                "`embedding`, or call the wrapped model once for each input"
            )
        if not passages:
            if not self.tap.is_attached:
                why = "the model was unwrapped"
            elif all(part is not self.layer for part in model.modules()):
                why = "it is no longer a part of the model: wrap the model again"
            elif compiled_part(model, self.layer) is not None:
                why = "a part of the model was compiled: compile the wrapped model instead"
            else:
                why = "name another layer as `embedding`"
            raise RuntimeError(f"{name} did not run: {why}")
        (passage,) = passages
        if is_training and not passage.has_graph and torch.is_grad_enabled():
            head = {id(parameter) for parameter in self.layer.parameters()}
            if any(p.requires_grad and id(p) not in head for p in model.parameters()):
                raise RuntimeError(
                    f"{name} ran without gradients, as under reentrant checkpointing or no_grad, "
                    "so nothing before it would train: checkpoint with use_reentrant=False, or "
                    "freeze what should not train by requires_grad_(False)"
                )
        return passage

    def _mask(
        self,
        tokens: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        is_needed: bool = True,
    ) -> Tensor | None:
        """Return the mask (B, T) of (B, ..., D) tokens, False at padding; None: no padding.

        Where no mask is needed, one that does not fit these tokens is ignored.
        """
        given = self._given(args, kwargs)
        mask = None if self._mask_name is None else given.get(self._mask_name)
        shape = (len(tokens), math.prod(tokens.shape[1:-1]))
        if mask is None:
            if is_needed and self._mask_name is not None:
                _refuse_other_masks(given, shape, self.token_mask)
            several = sum(isinstance(each, Tensor) for each in args) > 1
            if is_needed and self.token_mask is not None and self._takes_any and several:
                raise ValueError(
                    f"`{self._mask_name}` must be passed by keyword, since the model takes *args, "
                    f"or token_mask=None to `wrap`; got {len(args)} positional arguments"
                )
            return None
        if isinstance(mask, Tensor) and not mask.is_floating_point() and mask.shape == shape:
            return mask.bool() if self._mask_name == self.token_mask else mask == 0
        if not is_needed:
            return None
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
        raise ValueError(
            f"`token_mask` must name an argument with a bool or int (B, T) = {shape}, 1 for "
            f"tokens and 0 for padding, or be None if nothing is padded; got {self.token_mask!r} "
            f"with {got}"
        )

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, with the entries of mappings among them."""
        given: dict[str, Any] = {}
        for each in args:
            if isinstance(each, Mapping):
                given |= each
        return {**given, **dict(zip(self._arguments, args, strict=False)), **kwargs}


def _refuse_other_masks(
    given: Mapping[str, Any], shape: tuple[int, int], token_mask: str | None
) -> None:
    """Require that no other argument looks like a mask of these tokens."""
    for name, value in given.items():
        if "mask" in name and isinstance(value, Tensor) and value.shape == shape:
            raise ValueError(
                f"`token_mask` must be {name!r}, or '~{name}' if it is 1 for padding, or None if "
                f"nothing is padded; got {token_mask!r}, which is not in the call"
            )


def as_embedding(value: Tensor, channels: int) -> Tensor:
    """Return (B, D) as it is, and (B, ..., D) or channels-first (B, D, ...) as (B, T, D) tokens."""
    if value.ndim < 2:
        raise ValueError(
            "`embedding` must name a layer that gives (B, D), tokens or a feature map; "
            f"got {tuple(value.shape)}"
        )
    return value if value.ndim == 2 else value.movedim(channels, -1).flatten(1, -2)


def find_classifier(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Return timm's ``get_classifier``, else the linear layer that was registered last.

    If the config of a transformers model has ``num_labels``, the last linear layer of that width.
    """
    layers = dict(linear_layers(model))
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier):
        head = get_classifier()
        for name, layer in model.named_modules():
            if layer is head and (name in layers or isinstance(layer, nn.Identity)):
                return name, layer
    num_labels = getattr(getattr(model, "config", None), "num_labels", None)
    fitting = [place for place in layers.items() if place[1].out_features == num_labels]
    candidates = fitting or list(layers.items())
    return candidates[-1] if candidates else None


def num_outputs(layer: nn.Module) -> int:
    """Return the number of outputs of a linear layer."""
    return int(layer.out_features)  # type: ignore[arg-type]  # one of `linear_layers` has it


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield linear layers of any kind by name; for an adapted layer, its adapter."""
    outer: nn.Module | None = None
    for name, module in model.named_modules():
        if outer is not None and any(module is part for part in outer.modules()):
            continue
        if _is_linear(module):
            outer = module
            yield name, module


def _is_linear(module: nn.Module) -> bool:
    """Return whether this is a linear layer: torch's, a quantised one, or one adapted by peft."""
    if isinstance(module, nn.Linear):
        return True
    if not _has_width(module):
        return False
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.Module):
        return _is_linear(base)
    return not any(_has_width(part) or list(part.parameters()) for part in module.children())


def _has_width(module: nn.Module) -> bool:
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return all(isinstance(size, int) for size in sizes)


def own_parameters(model: nn.Module, layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parameters, by module and name, that only this layer of the model uses."""
    inside = set(layer.modules())
    others = (module for module in model.modules() if module not in inside)
    shared = {id(p) for module in others for p in module.parameters(recurse=False)}
    return [
        (module, name)
        for module in layer.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in shared
    ]


def layer_named(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of that name, or raise a ValueError that lists the names."""
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if name not in layers:
        raise ValueError(
            f"`embedding` must name a layer of the model; got {name!r}. "
            f"Layers: {layer_names(model)}"
        )
    return layers[name]


def layer_names(model: nn.Module, limit: int = 30) -> str:
    """Return the names of the last layers, for an error message."""
    names = [name for name, _ in model.named_modules() if name]
    more = f", … and {len(names) - limit} before" if len(names) > limit else ""
    return ", ".join(names[-limit:]) + more


def refuse_unwrappable(model: nn.Module) -> None:
    """Require a plain model: not parallel, wrapped or scripted."""
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
        taps = [hook for hook in module._forward_hooks.values() if isinstance(hook, Tap)]
        for tap in taps:
            if not tap.has_owner():
                tap.release()  # from a copy of a wrapped model that left its wrapper behind
        if any(tap.has_owner() for tap in taps):
            raise ValueError(
                f"`model` must not be wrapped already; got a model of which {where} read by "
                "another wrapper: call its unwrap() first"
            )


def compiled_part(model: nn.Module, layer: nn.Module) -> str | None:
    """Return the name of the compiled part that holds the layer, where hooks do not run."""
    for name, module in model.named_modules():
        is_compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        if is_compiled and any(part is layer for part in module.modules()):
            return name or type(module).__name__
    return None


def _arguments_of(model: nn.Module, mask: str | None) -> tuple[list[str], bool]:
    """Return the names of positional arguments, and whether the mask may be one without a name.

    Raises:
        ValueError: if the model does not take a mask of that name.
    """
    base = getattr(model, "get_base_model", None)  # peft's, which hides the names of arguments
    called = base() if callable(base) else model
    parameters = inspect.signature(called.forward).parameters.values()
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    takes_more = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    known = {each.name for each in parameters}
    takes_named = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if mask not in (None, MASK_ARGUMENT, *known) and not takes_named:
        raise ValueError(
            f"`token_mask` must name an argument of the model's forward, which takes "
            f"{', '.join(names)}; got {mask!r}"
        )
    return names, mask not in known and takes_more


def _is_sequence_first(layer: nn.Module) -> bool:
    """Return whether a torch layer, or a layer inside it, has the batch as its second axis."""
    parts = layer.modules() if type(layer).__module__.startswith("torch.nn") else (layer,)
    return any(getattr(part, "batch_first", True) is False for part in parts)


def _rows(given: Any, output: str | int | None) -> int | None:
    """Return the number of samples in a model's output; None if its logits are not found."""
    try:
        prediction = find_answer(given, output)
    except TypeError:
        return None
    return len(prediction) if prediction.ndim else None


def _refuse_probabilities(prediction: Tensor) -> None:
    """Require logits: some value is negative, or some row does not sum to 1."""
    sums = prediction.sum(-1, dtype=torch.float32)
    if len(prediction) and bool((prediction >= 0).all()) and bool(((sums - 1).abs() < 1e-2).all()):
        raise ValueError(
            "`keep_head` needs a model that outputs logits; got probabilities, rows that are "
            "non-negative and sum to 1: name the logits by `output`, or set keep_head=False"
        )


def _mismatch(
    model: nn.Module,
    name: str,
    passage: Passage,
    prediction: Tensor,
    *,
    is_sound: bool,
    is_example: bool,
) -> str:
    """Return how a model's output differs from what its last layer gives."""
    gave = passage.result
    shape = tuple(gave.shape) if isinstance(gave, Tensor) else type(gave).__name__
    if prediction.ndim != 2:
        what = f"the model must output (B, C); got {tuple(prediction.shape)}"
    elif isinstance(gave, Tensor) and not is_sound:
        what = f"the output of the last linear layer, {name!r}, is changed in place afterwards"
    elif isinstance(gave, Tensor) and gave.shape == prediction.shape:
        what = f"the last linear layer, {name!r}, gives other values than the model"
    else:
        output = tuple(prediction.shape)
        what = f"the last linear layer, {name!r}, gives {shape}, the model {output}"
    other = (
        "" if is_example else ", or pass `example_input`, with which all linear layers are tried"
    )
    return (
        f"`embedding` must name a layer, since {what}; got None. Name the layer whose output is "
        f"the embedding ('' for a feature extractor){other}. Layers: {layer_names(model)}"
    )
