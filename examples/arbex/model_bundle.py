"""Save and load a trained model in one file: a checkpoint of the library that holds the recipe.

The recipe builds the encoder, which the library cannot do from a file alone. A file may be
untrusted, so its header is checked against the recipe before anything of that size is allocated.
"""

import json
import platform
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from reprlib import repr as shortly
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from examples.arbex.configuration import RunConfig, as_plain, parse_config, without_files
from examples.arbex.face_model import FaceModel, build_model
from examples.arbex.model_sizes import state_without_memory
from examples.arbex.post_hoc import PostHoc
from reliability_balance import __version__, checkpoint
from reliability_balance.checkpoint.tensor_file import CONFIG_KEY
from reliability_balance.files import strict_json

KEYS = {"recipe": dict, "versions": dict, "num_fitted": int}
PREFIX = "model."  # of the model's weights in a checkpoint
LONGEST_HEADER = 2**21  # bytes, enough for ten thousand weights or classes
LONGEST_RECIPE = 2**16  # characters of JSON
MOST_EXTRAS = 2**25  # numbers


@dataclass(frozen=True)
class ModelBundle:
    """A model in eval mode, its recipe and class names, and what was fitted on its outputs."""

    model: FaceModel
    config: RunConfig
    class_names: tuple[str, ...]
    versions: dict[str, str]
    post_hoc: PostHoc | None = None


def save_bundle(
    path: Path,
    model: FaceModel,
    config: RunConfig,
    class_names: tuple[str, ...],
    post_hoc: PostHoc | None = None,
) -> None:
    """Write the model to one file, atomically.

    Raises:
        OSError: if the file cannot be written; an old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        path,
        model,
        class_names=class_names,
        preprocessing={
            "recipe": as_plain(config),
            "versions": versions(),
            "num_fitted": post_hoc.num_fitted if post_hoc else 0,
        },
        extras=post_hoc.modules() if post_hoc else None,
    )


def load_bundle(path: Path, device: torch.device | None = None) -> ModelBundle:
    """Read a model that :func:`save_bundle` wrote.

    Args:
        path: the file, or the folder of a run, whose best model is loaded.
        device: device of the model. None: the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a bundle, is damaged, or its weights are not finite or do not match
            its configuration.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"`model` must be a model.safetensors, or the folder of a run that has one; got "
            f"{path}: train first (python -m examples.arbex train), or name another by --model"
        )
    try:
        return _load(file, device or torch.device("cpu"))
    except PermissionError:
        raise
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"nothing named {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} must be a model that `train` wrote; got: {reason}") from error


def _load(file: Path, device: torch.device) -> ModelBundle:
    while True:
        preprocessing, config, class_names = _read_header(file)
        model = build_model(without_files(config), len(class_names))
        found = checkpoint.load(file, model)
        if found.preprocessing == preprocessing:  # else another model was saved meanwhile
            break
    _check_buffers(model)
    model = model.to(device).eval()
    return ModelBundle(
        model,
        config,
        class_names,
        preprocessing["versions"],
        PostHoc.of(found.extras, preprocessing["num_fitted"]),
    )


def _read_header(file: Path) -> tuple[dict[str, Any], RunConfig, tuple[str, ...]]:
    """Return what was saved with the weights; require that they fit it, without reading them."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > LONGEST_HEADER:
        raise ValueError(f"no safetensors, or with a header of more than {LONGEST_HEADER} bytes")
    with safe_open(file, "pt") as header:
        config = strict_json((header.metadata() or {})[CONFIG_KEY])
        names_of_all = header.keys()
        shapes = {name: torch.Size(header.get_slice(name).get_shape()) for name in names_of_all}
    preprocessing, names = config["preprocessing"], config["class_names"]
    _check_content(preprocessing, names)
    config = parse_config(preprocessing["recipe"], where="its recipe")
    build = partial(build_model, without_files(config), len(names))
    try:
        # Without memory, which a forged configuration could exhaust.
        expected = state_without_memory(build)
    except Exception as error:  # torch can raise anything on invalid sizes
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"a configuration that is no model's: {reason}") from error
    _check_fit(shapes, expected)
    return preprocessing, config, tuple(names)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    found = {"python": platform.python_version(), "reliability_balance": __version__}
    for package in ("torch", "torchvision", "lightning", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _check_content(preprocessing: dict[str, Any], names: list[str]) -> None:
    if {name: type(value) for name, value in preprocessing.items()} != KEYS:
        raise ValueError(f"no {', '.join(KEYS)} of its own kind: {shortly(preprocessing)}")
    if not all(isinstance(each, str) for each in preprocessing["versions"].values()):
        raise TypeError(f"versions that are no texts: {shortly(preprocessing['versions'])}")
    if len(json.dumps(preprocessing["recipe"])) > LONGEST_RECIPE:
        raise ValueError(f"a recipe of more than {LONGEST_RECIPE} characters")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names of classes that are no text: {shortly(names)}")
    if len(names) < 2 or len({name.strip() for name in names} - {""}) != len(names):
        raise ValueError(f"names of classes that are too few, empty or equal: {shortly(names)}")


def _check_fit(shapes: dict[str, torch.Size], expected: dict[str, Tensor]) -> None:
    """Require the expected names and shapes, and extras of a moderate size."""
    wanted = {PREFIX + name: each.shape for name, each in expected.items()}
    own = {name: shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    for name in sorted({*own, *wanted}):
        if own.get(name) != wanted.get(name):
            must, got = (
                "missing" if each is None else f"of shape {tuple(each)!r:.100}"
                for each in (wanted.get(name), own.get(name))
            )
            raise ValueError(
                "weights that do not fit its configuration; first misfit: "
                f"{name.removeprefix(PREFIX):.100} must be {must}; got {got}"
            )
    others = sum(shape.numel() for name, shape in shapes.items() if name not in own)
    if others > MOST_EXTRAS:
        raise ValueError(f"extras of more than {MOST_EXTRAS} numbers")


def _check_buffers(model: FaceModel) -> None:
    """Require finite buffers, and variances of at least 0; the library checks the weights."""
    for name, value in model.named_buffers():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"weights that must be finite; {name} has NaN or infinite ones")
        if name.endswith("running_var") and not bool((value >= 0).all()):
            raise ValueError(f"variances that must be 0 or more; {name} has negative ones")
