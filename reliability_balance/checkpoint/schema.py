"""Validate the content of a checkpoint before anything is built from it.

Anyone can write a file: its digest detects damage, but is not a signature.
"""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from reliability_balance.checkpoint.rebuilding import KINDS, arguments_of, as_recipe
from reliability_balance.core.balancer import OWN_HEAD
from reliability_balance.labels.tables import check_class_names

KEYS = {"format_version", "modules", "class_names", "preprocessing", "versions"}
# Settings that must match a tensor's shape, so that no size is trusted without data of that size.
SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "ReliabilityBalancer": {"anchors": ("num_classes", "num_anchors", "embedding_dim")},
    "RefurbishedTargets": {
        "updates": ("num_samples",),
        "classes.class_bias": ("num_classes",),
        "averages.values": ("num_samples", "kept"),
        "annotators.joint": ("num_annotators", "num_classes", "num_classes"),
    },
    "VectorScaling": {"weight": ("num_classes",)},
    "ClassPredictionSets": {"threshold": ("num_classes",)},
    "GroupPredictionSets": {"threshold": ("num_groups",)},
    "Familiarity": {
        "references": ("num_references", "embedding_dim"),
        "whitening": ("embedding_dim", "embedding_dim"),
    },
    "SelectionScore": {
        "references": ("num_references", "embedding_dim"),
        "beliefs": ("num_references", "num_classes"),
    },
}
# Smallest and largest values; LAST is the last class. A rest is a difference of sums, which may
# round below 0.
LAST = "last class"
ROUNDING = 1e-3
RANGES: dict[str, dict[str, tuple[float, float | str]]] = {
    "RefurbishedTargets": {
        "averages.values": (0.0, 1.0 + ROUNDING),
        "averages.rest": (-ROUNDING, 1.0 + ROUNDING),
        "averages.classes": (0, LAST),
        "counts.columns.classes": (0, LAST),
        "memorization.residuals.classes": (0, LAST),
        "out_of_sample.classes": (-1, LAST),
        "out_of_sample.confidence": (0.0, 1.0),
    },
}
ABSENT_IF_MISSING = {"num_annotators": 0}  # values in files older than the setting
SMALLEST, LARGEST = 1e-30, 2.0**63  # float32 rounds smaller ones to 0 or divides by them to NaN
FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
POSITIVE = {"temperature", "temperatures", "class_prior"}
THRESHOLD = "threshold"  # infinite: abstain always, or all classes; all NaN: not fitted


def check(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Require a configuration as `save` writes it, and matching tensors.

    Raises:
        ValueError: on anything else; the message names it.
    """
    problem = problem_of(tensors, config)
    if problem is not None:
        raise ValueError(
            f"`path` must have the configuration that `save` writes; got {path}: {problem}"
        )


def problem_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """Return the first problem of a checkpoint's content, or None."""
    return next(_problems(tensors, config), None)


def check_names(names: list[str], parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Require distinct names, one for each class of the model's parts.

    Raises:
        ValueError: on any others.
    """
    check_class_names(names)
    for part in parts.values():
        if part.get("num_classes", len(names)) != len(names):
            raise ValueError(
                f"`class_names` must be {part['num_classes']}, one for each class of the model; "
                f"got {len(names)}: {names!r:.200}"
            )


def _problems(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield all problems; each check relies on the ones before it."""
    yield from _of_names(config, KEYS, KEYS, "it")
    versions, preprocessing = config["versions"], config["preprocessing"]
    if not _is_mapping_to(versions, str):
        yield f"versions {versions!r:.100}, which are no texts"
    if not (preprocessing is None or isinstance(preprocessing, dict)):
        yield f"preprocessing {preprocessing!r:.100}, which is no mapping"
    modules = config["modules"]
    if not _is_mapping_to(modules, dict) or "model" not in modules:
        yield f"modules {modules!r:.100}, not one for each part"
    for role, module in modules.items():
        if not role.isidentifier():
            yield f"a module named {role!r:.100}, which is no identifier"
        yield from _of_module(role, module, tensors)
    for name in tensors:
        role, dot, _ = name.partition(".")
        if not dot or role not in modules:
            yield f"a tensor {name!r:.100} of no module"
    names = config["class_names"]
    if names is not None:
        yield from _of_class_names(names, modules["model"]["parts"])


def _of_module(
    role: str, module: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Iterator[str]:
    yield from _of_names(module, {"class", "parts"}, {"class", "parts"}, role)
    parts = module["parts"]
    if not isinstance(module["class"], str) or not _is_mapping_to(parts, dict):
        yield f"{role} of {module!r:.100}, not a class and its parts"
    for part, settings in parts.items():
        where = f"{role}.{part}".rstrip(".")
        kind = settings.get("class")
        if not isinstance(kind, str) or kind not in KINDS:
            yield f"{where} of the class {kind!r:.100}, which is none of this package"
        if part == "" and kind != module["class"]:
            yield f"{where} of the classes {module['class']!r:.100} and {kind!r}"
        yield from _of_settings(where, settings)
        start = f"{where}."
        own = {
            name.removeprefix(start): tensor
            for name, tensor in tensors.items()
            if name.startswith(start)
        }
        yield from _of_sizes(where, settings, own)
        if kind != "WrappedClassifier":
            yield from _of_values(where, settings, own)
            yield from _of_ranges(where, settings, own)


def _of_settings(where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Check names and types of settings; the constructor checks the ranges."""
    kind = KINDS[settings["class"]]
    arguments = arguments_of(kind)
    needed = {name for name in kind.SETTINGS if arguments[name].default is inspect.Parameter.empty}
    yield from _of_names(settings, kind.SETTINGS.keys() | {"class"}, needed, where)
    for name, declared in kind.SETTINGS.items():
        if name not in settings:
            continue
        value, types = settings[name], get_args(declared) or (declared,)
        if type(value) not in types and not (type(value) is int and float in types):
            expected = " or ".join(each.__name__ for each in types)
            yield f"{where}.{name} = {value!r:.100}, which is no {expected}"
        elif isinstance(value, int | float) and value and not SMALLEST < abs(value) < LARGEST:
            yield f"{where}.{name} = {value!r:.100}, which is not finite, too large or too small"
        elif name == "recipe":
            yield from _of_recipe(f"{where}.{name}", value)


def _of_recipe(where: str, value: Any) -> Iterator[str]:
    try:
        as_recipe(value)
    except (TypeError, ValueError) as error:
        yield f"{where} = {value!r:.100}: {error}"


def _of_sizes(where: str, settings: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[str]:
    for name, sizes in SHAPES.get(settings["class"], {}).items():
        wanted = tuple(settings.get(size, ABSENT_IF_MISSING.get(size)) for size in sizes)
        got = tuple(own[name].shape) if name in own else None
        if got != wanted and 0 not in wanted:  # no anchors, no annotators
            yield f"{where}.{name} of the shape {got}, and settings for {wanted}"


def _of_values(where: str, settings: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[str]:
    """Check that no weight or buffer is NaN or infinite, except thresholds."""
    for name, tensor in own.items():
        is_own_head = settings.get("head") == OWN_HEAD and name.startswith("head.")
        if is_own_head or not tensor.is_floating_point():
            continue
        if tensor.dtype not in FLOATING:
            yield f"{where}.{name} of the unsupported dtype {tensor.dtype}"
        if name == THRESHOLD and bool(tensor.isnan().all()):
            continue
        highest = tensor <= torch.inf if name == THRESHOLD else tensor < torch.inf
        if not bool((highest & (tensor > -torch.inf)).all()):
            yield f"{where}.{name} with NaN or infinite values"
        if name in POSITIVE and not bool((tensor > 0).all()):
            yield f"{where}.{name} with values that are not above 0"
        if name == "coefficients" and not bool((tensor.flatten()[:2] > 0).all()):
            yield f"{where}.{name} whose slopes are not above 0"


def _of_ranges(where: str, settings: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[str]:
    """Check values that indices or probabilities could not have."""
    for name, (low, high) in RANGES.get(settings["class"], {}).items():
        if name not in own or own[name].is_complex():  # refused for its dtype later
            continue
        top = settings["num_classes"] - 1 if isinstance(high, str) else high
        if not bool(((own[name] >= low) & (own[name] <= top)).all()):
            yield f"{where}.{name} with values outside of [{low:g}, {top:g}]"


def _of_class_names(names: Any, parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        yield f"class names {names!r:.100}, which are no texts"
    try:
        check_names(names, parts)
    except ValueError as error:
        yield str(error)


def _of_names(
    content: Mapping[str, Any], known: set[str], needed: set[str], where: str
) -> Iterator[str]:
    if unknown := content.keys() - known:
        yield f"{where} with the unknown {min(unknown)!r:.100}"
    if missing := needed - content.keys():
        yield f"{where} without {min(missing)}"


def _is_mapping_to(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(each, kind) for each in value.values())
