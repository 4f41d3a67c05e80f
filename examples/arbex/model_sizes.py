"""Names, shapes and dtypes of a model's weights, without allocating them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# They change no shape but take most of the time of building a large model.
INITIALIZERS = {
    getattr(Tensor, f"{name}_")
    for name in ("add", "clamp", "copy", "div", "erfinv", "fill", "mul", "normal", "sub", "uniform")
} | {Tensor.zero_}
COUNTERS = {torch.arange, torch.linspace, torch.tensor}


class _WithoutMemory(TorchFunctionMode):
    """Skip initialization; keep small tensors on the CPU if the model reads their values."""

    def __init__(self, *, values_are_read: bool) -> None:
        super().__init__()
        self.values_are_read = values_are_read

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function, or skip it."""
        options = dict(kwargs or {})
        if func in INITIALIZERS and args[0].is_meta:
            return args[0]
        if self.values_are_read and func in COUNTERS:
            options.setdefault("device", "cpu")
        return func(*args, **options)


def state_without_memory(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Return the state of a model built on the meta device.

    Args:
        build: returns the model, on torch's default device.

    Raises:
        Exception: whatever `build` raises, such as torch's RuntimeError on sizes that overflow.
    """
    try:
        return _build(build, values_are_read=False)
    except Exception as error:
        # torchvision's RegNets compute sizes with tensors and read the values.
        if not isinstance(error.__cause__, NotImplementedError):
            raise
    return _build(build, values_are_read=True)


def _build(build: Callable[[], nn.Module], *, values_are_read: bool) -> dict[str, Tensor]:
    with torch.device("meta"), _WithoutMemory(values_are_read=values_are_read):
        state: dict[str, Tensor] = build().state_dict()
    return state
