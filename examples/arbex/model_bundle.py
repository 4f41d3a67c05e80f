"""A trained model in one file: its weights, and all that is needed to use them.

The file is safetensors, which holds numbers and text but no code; the configuration is JSON in its
header, so weights and configuration cannot part.
"""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from configuration import Recipe, as_plain, parse_recipe
from face_model import FaceModel, build_model
from result_files import atomic_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from reliability_balance import __version__

FORMAT = 1


@dataclass(frozen=True)
class ModelBundle:
    """A model in eval mode, the recipe it was trained by, and the names of its classes."""

    model: FaceModel
    recipe: Recipe
    class_names: tuple[str, ...]
    versions: dict[str, str]


def save_bundle(path: Path, model: FaceModel, recipe: Recipe, class_names: tuple[str, ...]) -> None:
    """Write the model to one file, whole or not at all."""
    header = {
        "format": FORMAT,
        "class_names": list(class_names),
        "recipe": as_plain(recipe),
        "versions": versions(),
    }
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={"bundle": json.dumps(header)})


def load_bundle(path: Path, device: torch.device | None = None) -> ModelBundle:
    """Read a model that :func:`save_bundle` wrote.

    Args:
        path: the file, or the folder of a run, whose best model is then taken.
        device: where the model goes; None for the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no bundle, or its weights do not fit its own configuration.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"`model` must be a model.safetensors, or the folder of a run that has one; got {path}"
        )
    header = _read_header(file)
    recipe = parse_recipe(header["recipe"], where=str(file))
    class_names = tuple(header["class_names"])
    model = build_model(recipe, len(class_names))
    try:
        model.load_state_dict(load_file(file))
    except RuntimeError as error:
        first = "".join(str(error).splitlines()[1:2]).strip()  # torch lists every weight
        raise ValueError(
            f"{file}: its weights must fit its configuration; first misfit: {first[:200]}"
        ) from error
    model = model.to(device or torch.device("cpu")).eval()
    return ModelBundle(model, recipe, class_names, header["versions"])


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "reliability_balance": __version__}
    for package in ("torch", "torchvision", "lightning", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _read_header(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            header: dict[str, Any] = json.loads((opened.metadata() or {})["bundle"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} must be a model that `train` wrote; got: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{file} must have bundle format {FORMAT}; got {header.get('format')}")
    return header
