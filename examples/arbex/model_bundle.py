"""Save and load a trained model in one file: weights and configuration.

The file is safetensors, which holds numbers and text but no code. The configuration is JSON in its
header, so weights and configuration stay together. A digest of both detects damage.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from reprlib import repr as shortly
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from examples.arbex.configuration import Recipe, as_plain, parse_recipe
from examples.arbex.face_model import FaceModel, build_model
from examples.arbex.model_sizes import state_without_memory
from examples.result_files import open_result
from reliability_balance import __version__
from reliability_balance.files import strict_json

FORMAT = 3
KEYS = {"format", "class_names", "recipe", "versions", "sha256"}
# Files may be untrusted: limits on what is read before the sizes are checked.
LONGEST_HEADER = 2**21  # bytes, enough for ten thousand weights or classes
LONGEST_RECIPE = 2**16  # characters of JSON
MOST_BRACKETS = 2**16  # lists and objects, three per weight
DTYPES = {  # safetensors' names
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class ModelBundle:
    """A model in eval mode, the recipe of its training, and its class names."""

    model: FaceModel
    recipe: Recipe
    class_names: tuple[str, ...]
    versions: dict[str, str]


def save_bundle(path: Path, model: FaceModel, recipe: Recipe, class_names: tuple[str, ...]) -> None:
    """Write the model to one file, atomically.

    Raises:
        OSError: if the file cannot be written; an old one stays.
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
            f"`model` must be a model.safetensors, or the folder of a run that has one; got {path}"
        )
    # Open once: a save may replace the file meanwhile.
    with _telling_damage(file):
        opened = file.open("rb")
    with opened:
        with _telling_damage(file):
            start, listed, header = _read_header(opened)
        recipe = parse_recipe(header["recipe"], where=str(file))
        class_names = tuple(header["class_names"])
        build = partial(build_model, _without_files(recipe), len(class_names))
        try:
            # First without memory, which a forged configuration could exhaust.
            expected = state_without_memory(build)
        except Exception as error:  # torch can raise anything on invalid sizes
            reason = str(error).strip().split("\n")[0][:200]
            raise ValueError(
                f"{file}: its configuration must be a model's; got: {reason}"
            ) from error
        _check_fit(file, listed, expected)
        with _telling_damage(file):
            weights = _read_weights(opened, start, header, expected)
    _check_values(file, weights)
    model = build()
    model.load_state_dict(weights)
    model = model.to(device or torch.device("cpu")).eval()
    return ModelBundle(model, recipe, class_names, header["versions"])


def _without_files(recipe: Recipe) -> Recipe:
    """Return the recipe without the file of pre-trained weights, which may no longer exist."""
    options = {name: value for name, value in recipe.encoder.options.items() if name != "weights"}
    return replace(recipe, encoder=replace(recipe.encoder, options=options))


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    found = {"python": platform.python_version(), "reliability_balance": __version__}
    for package in ("torch", "torchvision", "lightning", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@contextmanager
def _telling_damage(file: Path) -> Iterator[None]:
    """Name the file in any error of reading it."""
    try:
        yield
    except PermissionError:
        raise
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"nothing named {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{file} must be a model that `train` wrote; got: {reason}") from error


def _read_header(
    file: BinaryIO,
) -> tuple[bytes, dict[str, tuple[torch.dtype | None, Any]], dict[str, Any]]:
    """Return the file's start, dtype and shape of each weight, and our own header."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > LONGEST_HEADER:
        raise ValueError(f"no safetensors, or with a header of more than {LONGEST_HEADER} bytes")
    start += file.read(length)
    entries = _read_json(start[8:].decode())
    metadata = entries.pop("__metadata__", {})
    listed = {
        name: (DTYPES.get(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries.items()
    }
    header = _read_json(metadata["bundle"])
    if header["format"] != FORMAT:
        raise ValueError(f"bundle format {shortly(header['format'])}, not {FORMAT}")
    if missing := KEYS - header.keys():
        raise ValueError(f"no {', '.join(sorted(missing))}")
    if unknown := header.keys() - KEYS:
        raise ValueError(f"an unknown {min(unknown)!r:.100}")
    names, versions = header["class_names"], header["versions"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names of classes that are no text: {shortly(names)}")
    if len(names) < 2 or len({name.strip() for name in names} - {""}) != len(names):
        raise ValueError(f"names of classes that are too few, empty or equal: {shortly(names)}")
    if not isinstance(versions, dict) or not all(
        isinstance(each, str) for each in versions.values()
    ):
        raise TypeError(f"versions that are no texts: {shortly(versions)}")
    if not isinstance(header["recipe"], dict):
        raise TypeError(f"a recipe without sections: {shortly(header['recipe'])}")
    if len(json.dumps(header["recipe"])) > LONGEST_RECIPE:
        raise ValueError(f"a recipe of more than {LONGEST_RECIPE} characters")
    return start, listed, header


def _read_json(text: str) -> dict[str, Any]:
    """Parse one JSON object, without duplicate keys, NaN or infinity."""
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError(f"JSON of more than {MOST_BRACKETS} lists and objects")
    content = strict_json(text)
    if not isinstance(content, dict):
        raise TypeError(f"JSON that is no object: {shortly(content)}")
    return content


def _read_weights(
    file: BinaryIO, start: bytes, header: Mapping[str, Any], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights, after checking the file's size and digest."""
    wanted = len(start) + sum(each.numel() * each.element_size() for each in expected.values())
    size = os.fstat(file.fileno()).st_size
    if size != wanted:
        raise ValueError(f"{size} bytes, not the {wanted} of its weights")
    weights: dict[str, Tensor] = load(start + file.read())
    rest = {name: value for name, value in header.items() if name != "sha256"}
    if header["sha256"] != _digest(rest, weights):
        raise ValueError("a content that has changed since it was written")
    return weights


def _digest(header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_fit(
    file: Path,
    listed: Mapping[str, tuple[torch.dtype | None, Any]],
    expected: Mapping[str, Tensor],
) -> None:
    """Require the expected names, shapes and dtypes."""
    for name in sorted({*listed, *expected}):
        wanted = None
        if name in expected:
            wanted = expected[name].dtype, tuple(expected[name].shape)
        got = listed.get(name)
        if got != wanted:
            raise ValueError(
                f"{file}: its weights must fit its configuration; first misfit: {name:.100} must "
                f"be {_spell(wanted)}; got {_spell(got)}"
            )


def _spell(kind: tuple[torch.dtype | None, Any] | None) -> str:
    if kind is None:
        return "missing"
    dtype, shape = kind
    return f"{dtype or 'of an unknown dtype'} of shape {shape!r:.100}"


def _check_values(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Require finite weights, variances of at least 0, and class frequencies above 0."""
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{file}: its weights must be finite; {name} has NaN or infinite ones")
        if name.endswith("running_var") and not bool((value >= 0).all()):
            raise ValueError(f"{file}: its variances must be 0 or more; {name} has negative ones")
        if name == "balancer.class_prior" and not bool((value > 0).all()):
            raise ValueError(
                f"{file}: its class frequencies must be above 0; got {value.tolist()!r:.100}"
            )
