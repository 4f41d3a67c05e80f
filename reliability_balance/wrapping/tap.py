"""Read what passes one layer of a model while the model runs."""

import dataclasses
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]


class Passage(NamedTuple):
    """What passed a layer once.

    ``value`` is a copy of the layer's input or output, since a later layer may work in place;
    ``result`` is the layer's own output as it was at ``version``. Inference mode counts no
    versions: there ``copy`` tells. While a graph is traced there is neither.
    """

    value: Tensor
    result: Any
    version: int | None
    copy: Tensor | None
    has_graph: bool

    def is_unchanged(self, *, validate: bool) -> bool:
        """Whether the layer's output still is as the layer gave it; to compare a copy, validate."""
        if self.version is not None:
            return bool(self.result._version == self.version)
        # NaN, too, is what it was.
        return self.copy is None or not validate or _equal_bits(self.copy, self.result)


class Tap:
    """Forward hook that records what passes one layer, for each thread that listens.

    It also holds what its wrapper froze, so that whoever takes it off can put all back.
    """

    def __init__(self, layer: nn.Module, side: Side) -> None:
        self.side = side
        self._passages: dict[int, list[Passage]] = {}
        self._frozen: list[tuple[nn.Module, str]] = []
        self._owner: weakref.ref[nn.Module] | None = None
        self._handle = layer.register_forward_hook(self, with_kwargs=True)
        self.is_attached = True

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        """Record; the last argument is the result, after keyword arguments if torch gives them."""
        passages = self._passages.get(_this_thread())
        if passages is None:
            return
        result = rest[-1]
        value: Any
        if self.side == "output":
            value = only_tensor(result, "the embedding layer")
        else:
            value = args[0] if args else next(iter(rest[0].values()))
        if not isinstance(value, Tensor):
            raise TypeError(
                f"`embedding` must name a layer that takes a tensor; got {type(value).__name__}"
            )
        version = copy = None
        if isinstance(result, Tensor) and not torch.compiler.is_compiling():
            if result.is_inference():
                copy = result.clone()
            else:
                version = result._version
        passages.append(Passage(value.clone(), result, version, copy, torch.is_grad_enabled()))

    def run(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[list[Passage], Any]:
        """Call the model: what passed the layer, and what the model gave."""
        # No context manager of a generator: torch 2.6 does not trace one.
        thread = _this_thread()
        outer = self._passages.get(thread)
        mine: list[Passage] = []
        self._passages[thread] = mine
        try:
            return mine, model(*args, **kwargs)
        finally:
            # Holding on to a graph would keep its memory, and forbid deepcopy and pickle.
            if outer is None:
                del self._passages[thread]
            else:
                self._passages[thread] = outer

    def freeze(self, parameters: Sequence[tuple[nn.Module, str]]) -> None:
        """Freeze these parameters, by module and name, until :meth:`release`."""
        for module, name in parameters:
            parameter = module._parameters[name]
            if parameter is not None and parameter.requires_grad:
                parameter.requires_grad_(False)
                self._frozen.append((module, name))

    def claim(self, owner: nn.Module) -> None:
        """Belong to a wrapper; a copy of a tap goes with the copy of its wrapper."""
        if not self.has_owner():
            self._owner = weakref.ref(owner)

    def has_owner(self) -> bool:
        """Whether there still is a wrapper that reads by this very tap."""
        owner = None if self._owner is None else self._owner()
        return owner is not None and _tap_of(owner) is self

    def belongs_to(self, wrapper: nn.Module) -> bool:
        """Whether this wrapper, and not one that it is a copy of, is the last to need the tap."""
        owner = None if self._owner is None else self._owner()
        return owner is None or owner is wrapper

    def release(self) -> None:
        """Take the hook off the layer, and thaw what was frozen."""
        self._handle.remove()
        self.is_attached = False
        for module, name in self._frozen:
            parameter = module._parameters.get(name)
            if parameter is not None:
                parameter.requires_grad_(True)
        self._frozen = []

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled; who unpickles the wrapper claims the tap.
        return {**self.__dict__, "_owner": None, "_passages": {}}


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _tap_of(wrapper: nn.Module) -> Any:
    return getattr(wrapper.__dict__.get("source"), "tap", None)


def _this_thread() -> int:
    """One model may serve many threads; a graph that is being traced belongs to none."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


def only_tensor(result: Any, what: str) -> Tensor:
    """Return a tensor itself, or the one tensor that a layer's output holds."""
    if isinstance(result, Tensor):
        return result
    hidden = getattr(result, "last_hidden_state", None)
    if isinstance(hidden, Tensor):
        return hidden
    tensors = [entry for entry in _entries(result).values() if isinstance(entry, Tensor)]
    if len(tensors) != 1:
        raise TypeError(
            f"`embedding` must name a layer that gives one tensor; {what} gives "
            f"{_describe(result)}: name another layer"
        )
    return tensors[0]


def find_answer(given: Any, output: str | int | None) -> Tensor:
    """Return the tensor that a model answers with: named by `output`, ``logits``, or the only one.

    Raises:
        TypeError: if `output` does not lead to a tensor, or is needed and None.
    """
    if isinstance(given, Tensor) and not isinstance(output, str):
        return given  # also of models that return more in training than in evaluation
    if output is not None:
        return _named_entry(given, output)
    logits = _entries(given).get("logits", getattr(given, "logits", None))
    if isinstance(logits, Tensor):
        return logits
    tensors = [entry for entry in _entries(given).values() if isinstance(entry, Tensor)]
    if len(tensors) == 1:
        return tensors[0]
    raise TypeError(
        "`output` must name which part of the model's output holds the logits; got None, and the "
        f"model gave {_describe(given)}"
    )


def _named_entry(given: Any, output: str | int) -> Tensor:
    is_field = isinstance(output, str) and not isinstance(given, Mapping)
    try:
        entry = getattr(given, str(output)) if is_field else given[output]
    except (AttributeError, KeyError, IndexError, TypeError):
        entry = None
    if not isinstance(entry, Tensor):
        raise TypeError(
            f"`output` must name a tensor of the model's output; got {output!r}, and the model "
            f"gave {_describe(given)}"
        )
    return entry


def _entries(given: Any) -> dict[Any, Any]:
    """What an output holds, by key, field or position."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, (tuple, list)):
        return dict(enumerate(given))
    if dataclasses.is_dataclass(given):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return dict(getattr(given, "__dict__", {}))


def _describe(given: Any) -> str:
    def text(entry: Any) -> str:
        return f"{tuple(entry.shape)}" if isinstance(entry, Tensor) else type(entry).__name__

    if isinstance(given, Tensor):
        return f"a tensor {tuple(given.shape)}"
    if isinstance(given, (tuple, list)):
        return f"a {type(given).__name__} of ({', '.join(map(text, given))})"
    entries = ", ".join(f"{name}: {text(entry)}" for name, entry in _entries(given).items())
    return f"a {type(given).__name__} of {{{entries}}}"
