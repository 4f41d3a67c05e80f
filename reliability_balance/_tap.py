"""Read what passes one layer of a model while the model runs."""

import threading
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]


class Passage(NamedTuple):
    """What passed a layer once.

    ``value`` is a copy of the layer's input or output, since a later layer may work in place;
    ``result`` is the layer's own output, and ``result_copy`` its copy while the tap is not checked.
    """

    value: Tensor
    result: Any
    result_copy: Tensor | None
    has_graph: bool


class Tap:
    """Forward hook that records what passes one layer, for each thread that listens."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.is_checked = False
        self._passages: dict[int, list[Passage]] = {}

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        passages = self._passages.get(_this_thread())
        if passages is None:
            return
        if self.side == "output":
            value = only_tensor(result, "the embedding layer")
        else:
            value = args[0] if args else next(iter(kwargs.values()))
        copy = None
        if self.side == "input" and not self.is_checked and isinstance(result, Tensor):
            copy = result.clone()
        passages.append(Passage(value.clone(), result, copy, torch.is_grad_enabled()))

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
    entries = list(result.values()) if isinstance(result, Mapping) else result
    tensors = (
        [entry for entry in entries if isinstance(entry, Tensor)]
        if isinstance(entries, (tuple, list))
        else []
    )
    if len(tensors) != 1:
        raise TypeError(
            f"{what} must give one tensor; got {type(result).__name__} with {len(tensors)} "
            "tensors. Name another layer as `embedding`"
        )
    return tensors[0]


def find_answer(given: Any, output: str | int | None) -> Tensor:
    """Return the tensor that a model answers with: named by `output`, ``logits``, or the only one.

    Raises:
        TypeError: if `output` does not lead to a tensor, or is needed and None.
    """
    if output is not None:
        return _named_entry(given, output)
    if isinstance(given, Tensor):
        return given
    fields = given if isinstance(given, Mapping) else getattr(given, "__dict__", {})
    logits = fields.get("logits", getattr(given, "logits", None))
    if isinstance(logits, Tensor):
        return logits
    entries = list(given) if isinstance(given, (tuple, list)) else list(fields.values())
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
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


def _describe(given: Any) -> str:
    def text(entry: Any) -> str:
        return f"{tuple(entry.shape)}" if isinstance(entry, Tensor) else type(entry).__name__

    if isinstance(given, Tensor):
        return f"a tensor {tuple(given.shape)}"
    if isinstance(given, (tuple, list)):
        return f"a {type(given).__name__} of ({', '.join(map(text, given))})"
    fields = given if isinstance(given, Mapping) else getattr(given, "__dict__", {})
    entries = ", ".join(f"{name}: {text(entry)}" for name, entry in fields.items())
    return f"a {type(given).__name__} of {{{entries}}}"
