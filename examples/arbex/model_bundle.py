"""A trained model in one file: its weights, and all that is needed to use them.

The file is safetensors, which holds numbers and text but no code; the configuration is JSON in its
header, so weights and configuration cannot part; a digest of both tells a damaged file.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from configuration import Recipe, as_plain, parse_recipe
from face_model import FaceModel, build_model
from result_files import open_result
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from reliability_balance import __version__

FORMAT = 3


@dataclass(frozen=True)
class ModelBundle:
    """A model in eval mode, the recipe it was trained by, and the names of its classes."""

    model: FaceModel
    recipe: Recipe
    class_names: tuple[str, ...]
    versions: dict[str, str]


def save_bundle(path: Path, model: FaceModel, recipe: Recipe, class_names: tuple[str, ...]) -> None:
    """Write the model to one file, whole or not at all.

    Raises:
        OSError: if the disk refuses it; what was there before stays.
    """
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "class_names": list(class_names),
        "recipe": as_plain(recipe),
        "versions": versions(),
    }
    header["sha256"] = _digest(header, weights)
    content = save(weights, metadata={"bundle": json.dumps(header)})
    with open_result(path) as file:
        file.write(content)


def load_bundle(path: Path, device: torch.device | None = None) -> ModelBundle:
    """Read a model that :func:`save_bundle` wrote.

    Args:
        path: the file, or the folder of a run, whose best model is then taken.
        device: where the model goes; None for the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no bundle, is damaged, or its weights are not finite, or do not fit its
            configuration.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"`model` must be a model.safetensors, or the folder of a run that has one; got {path}"
        )
    header, weights = _read(file)
    recipe = parse_recipe(header["recipe"], where=str(file))
    class_names = tuple(header["class_names"])
    blank = _without_files(recipe)
    try:
        # First without memory, which the sizes of a forged configuration could fill.
        with torch.device("meta"):
            expected = build_model(blank, len(class_names)).state_dict()
    except Exception as error:  # torch raises anything on sizes that make no sense
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{file}: its configuration must be a model's; got: {reason}") from error
    _check_fit(file, weights, expected)
    model = build_model(blank, len(class_names))
    model.load_state_dict(weights)
    model = model.to(device or torch.device("cpu")).eval()
    return ModelBundle(model, recipe, class_names, header["versions"])


def _without_files(recipe: Recipe) -> Recipe:
    """The recipe without the weights that training began from, which may be gone by now."""
    options = {name: value for name, value in recipe.encoder.options.items() if name != "weights"}
    return replace(recipe, encoder=replace(recipe.encoder, options=options))


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "reliability_balance": __version__}
    for package in ("torch", "torchvision", "lightning", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and weights, after the digest was found to be theirs."""
    try:
        content = file.read_bytes()  # once, since a save may replace the file meanwhile
        weights = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length]).get("__metadata__", {})["bundle"])
        if header["format"] != FORMAT:
            raise ValueError(f"bundle format {header['format']}, not {FORMAT}")
        digest = header.pop("sha256")
        if digest != _digest(header, weights):
            raise ValueError("a content that has changed since it was written")
        if missing := {"class_names", "recipe", "versions"} - header.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
        names = header["class_names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"names of classes that are no text: {names!r:.100}")
        if len(names) < 2 or len({name.strip() for name in names} - {""}) != len(names):
            raise ValueError(f"names of classes that are too few, empty or equal: {names!r:.100}")
    except PermissionError:
        raise
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} must be a model that `train` wrote; got: {error}") from error
    return header, weights


def _digest(header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_fit(file: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Require the expected names and shapes, and finite values."""
    for name in sorted({*weights, *expected}):
        got, wanted = (
            tuple(tensors[name].shape) if name in tensors else None
            for tensors in (weights, expected)
        )
        if got != wanted:
            raise ValueError(
                f"{file}: its weights must fit its configuration; first misfit: {name} must have "
                f"shape {wanted}; got {got}"
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise ValueError(f"{file}: its weights must be finite; {name} has NaN or infinite ones")
