"""Versions of the checkpoint format, and migrations from each to the next."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reliability_balance.checkpoint import schema
from reliability_balance.labels.out_of_sample import fill_in_old
from reliability_balance.labels.target_state import rename_old

FORMAT_VERSION = 8
# Defaults of the targets before format 4, whose files may lack a setting.
TARGETS_BEFORE_4 = {
    "momentum": 0.9,
    "temperature": 0.5,
    "noise_temperature": 1.0,
    "prior_count": 0.0,
    "warmup": 3,
    "held_back": 0.0,
}

Content = tuple[dict[str, Tensor], dict[str, Any]]


def migrate(path: str | Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate the content of a file to the current format.

    Raises:
        ValueError: if its format is unknown, or its content is not what `save` writes.
    """
    version = config["format_version"]
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"`path` must have a format version from 1 to {FORMAT_VERSION}; got {version!r} in "
            f"{path}. A newer one needs a newer reliability-balance: pip install -U"
        )
    for step in STEPS[version - 1 :]:
        tensors, config = step(tensors, config)
    schema.check(path, tensors, config)
    return tensors, config


def _is_complete(config: dict[str, Any]) -> bool:
    """Return whether the configuration has everything that the migrations read."""
    modules = config.get("modules")
    names = {"class_names", "preprocessing", "versions"}
    return (
        names <= config.keys()
        and isinstance(modules, dict)
        and "model" in modules
        and all(
            isinstance(module, dict)
            and isinstance(module.get("class"), str)
            and isinstance(module.get("parts"), dict)
            and all(isinstance(settings, dict) for settings in module["parts"].values())
            for module in modules.values()
        )
    )


def _from_1_to_2(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 1: a single model under its own names, without a digest."""
    rest = {name: value for name, value in config.items() if name not in ("class", "parts")}
    modules = {"model": {"class": config.get("class"), "parts": config.get("parts")}}
    return (
        {f"model.{name}": tensor for name, tensor in tensors.items()},
        {**rest, "format_version": 2, "modules": modules},
    )


def _from_2_to_3(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 2: only layer and side of a wrapper; maps were channels first."""
    modules = config["modules"].values() if _is_complete(config) else ()
    for module in modules:
        for settings in module["parts"].values():
            if "tap" in settings:
                side = settings.pop("tap")
                settings |= {"side": side, "channels": -1 if side == "input" else 1}
    return tensors, {**config, "format_version": 3}


def _from_3_to_4(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 3: `has_class_prior` was a setting; `held_for` was missing."""
    room = sum(tensor.numel() for tensor in tensors.values())
    tensors = dict(tensors)
    modules = config["modules"].items() if _is_complete(config) else ()
    for role, module in modules:
        for part, settings in module["parts"].items():
            if settings.get("class") == "RefurbishedTargets":
                settings = {**TARGETS_BEFORE_4, **settings}
                module["parts"][part] = {**settings, "held_for": settings["warmup"]}
                tensors[_name(role, part, "remembers")] = torch.full((), -1, dtype=torch.int8)
                given = _name(role, part, "given")
                if given in tensors:  # encoded differently
                    tensors[given] = torch.full_like(tensors[given], -1)
            if settings.get("class") == "ReliabilityBalancer":
                prior, size = _name(role, part, "class_prior"), settings.get("num_classes")
                # A contradictory file keeps the setting, for which it is rejected later.
                if settings.get("has_class_prior", False) is (prior in tensors):
                    settings.pop("has_class_prior", None)
                else:
                    settings["has_class_prior"] = None
                if prior not in tensors and type(size) is int and 0 < size <= room:
                    tensors[prior] = torch.full((size,), 1.0 / size)
    return tensors, {**config, "format_version": 4}


def _from_4_to_5(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 4: predictions of labels not trained on were not kept."""
    room = sum(tensor.numel() for tensor in tensors.values())
    tensors = dict(tensors)
    for prefix, settings in _targets_in(config):
        size = settings.get("num_samples")
        if type(size) is int and 0 < size <= room:
            fill_in_old(tensors, prefix, size)
    return tensors, {**config, "format_version": 5}


def _from_5_to_6(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 5: targets stored all classes, under other names."""
    tensors = dict(tensors)
    for prefix, settings in _targets_in(config):
        rename_old(tensors, prefix)
        settings["kept"] = settings.get("num_classes")
    return tensors, {**config, "format_version": 6}


def _from_6_to_7(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 6: the agreement that `inspect_embeddings` measures was not kept."""
    tensors = dict(tensors)
    for prefix, _ in _targets_in(config):
        tensors[f"{prefix}agreement"] = torch.tensor([0.0, -1.0])
    return tensors, {**config, "format_version": 7}


def _from_7_to_8(tensors: dict[str, Tensor], config: dict[str, Any]) -> Content:
    """Migrate from version 7: the class bias of targets had another name."""
    tensors = dict(tensors)
    for prefix, _ in _targets_in(config):
        rename_old(tensors, prefix)
    return tensors, {**config, "format_version": 8}


def _targets_in(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the prefix of the tensors and the settings of all targets in a file."""
    modules = config["modules"].items() if _is_complete(config) else ()
    for role, module in modules:
        for part, settings in module["parts"].items():
            if settings.get("class") == "RefurbishedTargets":
                yield f"{_name(role, part)}.", settings


def _name(*parts: str) -> str:
    return ".".join(part for part in parts if part)


STEPS: tuple[Callable[[dict[str, Tensor], dict[str, Any]], Content], ...] = (
    _from_1_to_2,
    _from_2_to_3,
    _from_3_to_4,
    _from_4_to_5,
    _from_5_to_6,
    _from_6_to_7,
    _from_7_to_8,
)
