"""Import optional libraries when a backbone needs them."""

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import a module, or raise an error that names the extra to install.

    Args:
        module: name of the module.
        extra: the extra of this package that installs it.

    Raises:
        ImportError: if it is not installed; the message has the command.

    Example:
        >>> require("math", extra="none").tau > 6
        True
        >>> require("no_such_module", extra="timm")
        Traceback (most recent call last):
        ImportError: no_such_module is needed here: pip install '.[timm]' in the clone
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed here: pip install '.[{extra}]' in the clone"
        ) from error
