"""Record the input or output of one layer during a model's forward pass."""

import dataclasses
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]


class Passage(NamedTuple):
    """One recorded call of a layer.

    ``value`` is a copy of the layer's input or output, since a later layer may work in place.
    ``result`` is the layer's own output and ``version`` its version counter at that moment.
    Inference tensors have no version counter: there ``copy`` holds the values. During tracing both
    are None.
    """

    value: Tensor
    result: Any
    version: int | None
    copy: Tensor | None
    has_graph: bool

    def is_unchanged(self, *, validate: bool) -> bool:
        """Return whether the output was left as it was; a copy is compared only if `validate`."""
        if self.version is not None:
            return bool(self.result._version == self.version)
        # NaN counts as equal to NaN.
        return self.copy is None or not validate or _equal_bits(self.copy, self.result)


class Tap:
    """Forward hook that records the calls of one layer, separately for each calling thread.

    It also lists the parameters that its wrapper froze, so that :meth:`release` can unfreeze them.
    """

    def __init__(self, layer: nn.Module, side: Side) -> None:
        self.side = side
        self._passages: dict[int, list[Passage]] = {}
        self._frozen: list[tuple[nn.Module, str]] = []
        self._owner: weakref.ref[nn.Module] | None = None
        self._handle = layer.register_forward_hook(self, with_kwargs=True)
        self.is_attached = True

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        """Record a call; the last argument is the result, after any keyword arguments."""
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
        """Call the model; return the recorded calls of the layer and the model's output."""
        # torch 2.6 cannot trace a generator-based context manager.
        thread = _this_thread()
        outer = self._passages.get(thread)
        mine: list[Passage] = []
        self._passages[thread] = mine
        try:
            return mine, model(*args, **kwargs)
        finally:
            # A stored graph would hold its memory and break deepcopy and pickle.
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
        """Set the wrapper that owns this tap, unless it has one."""
        if not self.has_owner():
            self._owner = weakref.ref(owner)

    def has_owner(self) -> bool:
        """Return whether a live wrapper still reads from this tap."""
        owner = None if self._owner is None else self._owner()
        return owner is not None and _tap_of(owner) is self

    def belongs_to(self, wrapper: nn.Module) -> bool:
        """Return whether no other wrapper, such as the one it was copied from, owns the tap."""
        owner = None if self._owner is None else self._owner()
        return owner is None or owner is wrapper

    def release(self) -> None:
        """Remove the hook from the layer and unfreeze what was frozen."""
        self._handle.remove()
        self.is_attached = False
        for module, name in self._frozen:
            parameter = module._parameters.get(name)
            if parameter is not None:
                parameter.requires_grad_(True)
        self._frozen = []

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled; the unpickled wrapper claims the tap again.
        return {**self.__dict__, "_owner": None, "_passages": {}}


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _tap_of(wrapper: nn.Module) -> Any:
    return getattr(wrapper.__dict__.get("source"), "tap", None)


def _this_thread() -> int:
    """Return the thread's id; 0 while a graph is traced, which belongs to no thread."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


def only_tensor(result: Any, what: str) -> Tensor:
    """Return the tensor that a layer's output is, or the only one in it."""
    if isinstance(result, Tensor):
        return result
    hidden = getattr(result, "last_hidden_state", None)
    if isinstance(hidden, Tensor):
        return hidden
    tensors = [entry for entry in _entries(result).values() if isinstance(entry, Tensor)]
    if len(tensors) != 1:
        raise TypeError(
            f"`embedding` must name a layer that outputs one tensor; {what} outputs "
            f"{_describe(result)}: name another layer"
        )
    return tensors[0]


def find_answer(given: Any, output: str | int | None) -> Tensor:
    """Return the logits in a model's output: the entry `output`, ``logits``, or the only tensor.

    Raises:
        TypeError: if `output` does not name a tensor, or is None where it is needed.
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
    """Return the entries of an output, by key, field or position."""
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
