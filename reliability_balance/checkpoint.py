"""A trained model in one file: weights, settings, names of classes, preprocessing, versions."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reliability_balance import _rebuilding, _tensor_file
from reliability_balance._version import __version__

FORMAT_VERSION = 1


class Checkpoint(NamedTuple):
    """What :func:`load` found: the model, and all that was saved beside it."""

    model: nn.Module
    class_names: tuple[str, ...] | None
    preprocessing: dict[str, Any] | None
    versions: dict[str, str]


def save(
    path: str | Path,
    model: nn.Module,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Write a model to one file, whole or not at all.

    Args:
        path: the file, whose folder must exist; an old one stays whole until the new one is.
        model: a balancer, a wrapped classifier, or any module that holds one.
        class_names: C names, in the order of the classes.
        preprocessing: what inputs need, in your own words, as far as JSON has them; tuples come
            back as lists.

    Example:
        >>> import tempfile
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer = ReliabilityBalancer(16, num_classes=2).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.safetensors", balancer, class_names=["cat", "dog"])
        ...     found = load(f"{folder}/model.safetensors")
        >>> embedding = torch.randn(3, 16)
        >>> torch.equal(found.model(embedding).corrected, balancer(embedding).corrected)
        True
        >>> found.class_names
        ('cat', 'dog')
    """
    config = {
        "format_version": FORMAT_VERSION,
        "class": type(model).__name__,
        "parts": _rebuilding.parts_of(model),
        "class_names": None if class_names is None else list(class_names),
        "preprocessing": preprocessing,
        "versions": {
            "reliability_balance": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    _tensor_file.write(Path(path), model.state_dict(), config)


def load(path: str | Path, model: nn.Module | None = None) -> Checkpoint:
    """Read a model that :func:`save` wrote.

    Args:
        path: the file.
        model: what to fill, built as the saved one was; nothing is touched unless all fits. None
            builds a :class:`ReliabilityBalancer` anew, in eval mode on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package safetensors.
        ValueError: if it is no such file, is damaged, or does not fit the model.
    """
    tensors, config = _tensor_file.read(Path(path))
    parts = config["parts"]
    if model is None:
        if "" not in parts:
            raise ValueError(
                f"`model` must be given: {path} holds a {config['class']}, which only you can build"
            )
        model = _rebuilding.build(parts[""])
        _check_fit(model, parts, tensors)
        model.load_state_dict(tensors, assign=True)
        model.eval()
    else:
        _check_fit(model, parts, tensors)
        model.load_state_dict(tensors)
    names = config["class_names"]
    return Checkpoint(
        model, None if names is None else tuple(names), config["preprocessing"], config["versions"]
    )


def _check_fit(model: nn.Module, parts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    own, own_parts = model.state_dict(), _rebuilding.parts_of(model)
    problems = [
        f"{name or 'model'}: {parts.get(name)} in the file, {own_parts.get(name)} in the model"
        for name in sorted({*parts, *own_parts})
        if parts.get(name) != own_parts.get(name)
    ]
    problems += [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is unexpected" for name in tensors if name not in own]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise ValueError(f"`model` must be built as the saved one was; {'; '.join(problems)}")
