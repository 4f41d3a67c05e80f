"""Settings, declared once by a module, shown in its `repr` and saved in its checkpoint."""

from typing import Any, ClassVar

from torch import Tensor, nn


class Configured(nn.Module):
    """A module that declares its settings.

    ``SETTINGS`` names arguments of the constructor that are attributes too, with the types that
    they have in a checkpoint; ``FITTED`` names fitted buffers that `repr` shows too. Dtypes and
    choices of a run (`validate_args`, `group`) are not settings.
    """

    SETTINGS: ClassVar[dict[str, Any]] = {}
    FITTED: ClassVar[tuple[str, ...]] = ()

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build an equal module, before its state is loaded."""
        return {name: getattr(self, name) for name in self.SETTINGS}

    def extra_repr(self) -> str:
        """Show settings and fitted values."""
        shown = [f"{name}={value!r}" for name, value in self.settings().items()]
        shown += [f"{name}={_rounded(getattr(self, name))}" for name in self.FITTED]
        return ", ".join(shown)


def _rounded(values: Tensor) -> str:
    if values.is_meta:  # no value yet
        return "..."
    numbers = [f"{value:.4g}" for value in values.flatten().tolist()]
    return f"[{', '.join(numbers)}]" if values.ndim else numbers[0]
