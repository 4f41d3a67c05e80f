"""Extract the settings of this package's modules, and rebuild modules from settings."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reliability_balance import checks
from reliability_balance.calibration.branches import BranchTemperatures
from reliability_balance.calibration.calibrated_model import Calibrator
from reliability_balance.calibration.familiarity import Familiarity
from reliability_balance.calibration.prediction_sets import (
    ClassPredictionSets,
    GroupPredictionSets,
    PredictionSets,
)
from reliability_balance.calibration.scaling import TemperatureScaling, VectorScaling
from reliability_balance.calibration.selection_score import SelectionScore
from reliability_balance.calibration.selective import Abstention
from reliability_balance.calibration.top_label import TopLabelScaling
from reliability_balance.core.balancer import OWN_HEAD, ReliabilityBalancer
from reliability_balance.core.recipes import Recipe, get_recipe, renamed
from reliability_balance.core.settings import Configured
from reliability_balance.labels.targets import RefurbishedTargets
from reliability_balance.wrapping.classifier import WrappedClassifier, attach

Settings = dict[str, Any]
SHOWN = 8  # differences in an error message


# Sizes of weights, dtypes and fitted thresholds are in the state instead. `validate_args` and
# `group` are in neither: they are choices of each run.
KINDS: dict[str, type[Configured]] = {
    kind.__name__: kind
    for kind in (
        ReliabilityBalancer,
        WrappedClassifier,
        RefurbishedTargets,
        TemperatureScaling,
        TopLabelScaling,
        VectorScaling,
        BranchTemperatures,
        Calibrator,
        PredictionSets,
        ClassPredictionSets,
        GroupPredictionSets,
        Abstention,
        Familiarity,
        SelectionScore,
    )
}
BUILDABLE = {name: kind for name, kind in KINDS.items() if kind is not WrappedClassifier}


def parts_of(module: nn.Module) -> dict[str, Settings]:
    """Return class and settings of each part that is from this package, by module name."""
    return {
        name: {"class": type(part).__name__, **_plain(part.settings())}
        for name, part in module.named_modules()
        if isinstance(part, Configured) and KINDS.get(type(part).__name__) is type(part)
    }


def _plain(settings: Settings) -> Settings:
    """Convert values to what JSON can hold."""
    return {name: _as_json(value) for name, value in settings.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, Recipe):
        return asdict(value)
    return value.item() if isinstance(value, np.generic | Tensor) else value


def build(parts: dict[str, Settings]) -> nn.Module | None:
    """Build the module from the settings of its parts; None if settings are not enough.

    It is on the meta device: it has shapes, but no values until they are assigned.
    """
    arguments = dict(parts.get("", {}))
    kind = BUILDABLE.get(arguments.pop("class", ""))
    if kind is None or arguments.get("head") == OWN_HEAD:
        return None
    try:
        if isinstance(arguments.get("recipe"), dict):
            arguments["recipe"] = as_recipe(arguments["recipe"])
        with torch.device("meta"):
            return kind(**arguments)
    except (TypeError, RuntimeError, OverflowError) as error:  # also from impossible sizes
        raise ValueError(
            f"the settings of a {kind.__name__} must be valid arguments; got {error}"
        ) from error


def wrapped_as(
    parts: dict[str, Settings], model: nn.Module, state: Mapping[str, Tensor]
) -> nn.Module:
    """Wrap a network as a saved classifier was; return any other module as it is.

    A wrapper with the same settings is kept. Otherwise its network is wrapped again, after a check
    that the weights fit, and the old wrapper is removed.
    """
    settings = parts.get("", {})
    if settings.get("class") != WrappedClassifier.__name__ or parts_of(model) == parts:
        return model
    balancer = build({"": parts.get("balancer", {})})
    network = model.model if isinstance(model, WrappedClassifier) else model
    # A custom head cannot be rebuilt; the caller reports what differs.
    if not isinstance(balancer, ReliabilityBalancer):
        return model
    problems = [
        problem
        for name, module in (("model", network), ("balancer", balancer))
        for problem in _misfits(module, state_within(state, name))
    ]
    if settings["layer"] not in dict(network.named_modules()):
        problems.append(
            f"the file has the embedding layer {settings['layer']!r}, which is not here"
        )
    if problems:
        differences = _differences(parts, parts_of(model)) if model is not network else []
        raise ValueError(_refusal("model", differences + problems))
    place = {name: value for name, value in settings.items() if name != "class"}
    old = model if isinstance(model, WrappedClassifier) else None
    return attach(network, balancer.to_empty(device="cpu"), **place, old=old)


def state_within(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the part of a state with the prefix `name`, without the prefix."""
    start = f"{name}."
    return {key.removeprefix(start): each for key, each in state.items() if key.startswith(start)}


def fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Return whether a state has the module's names, shapes and dtypes."""
    return not _misfits(module, state)


def check_fit(
    role: str, module: nn.Module, parts: dict[str, Settings], state: Mapping[str, Tensor]
) -> None:
    """Require that a module has these settings and the state's names, shapes and dtypes.

    Raises:
        ValueError: if it does not, or a weight is not finite; the message names what differs.
    """
    problems = _differences(parts, parts_of(module)) + _misfits(module, state)
    if problems:
        raise ValueError(_refusal(role, problems))
    check_weights(role, module, state)


def _refusal(role: str, problems: list[str]) -> str:
    return (
        f"`{role}` must be built like the saved one, and nothing was loaded; "
        f"got: {checks.listed(problems, shown=SHOWN, separator='; ')}"
    )


def check_weights(role: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Require finite values for all parameters of a module; an infinite buffer may be intended.

    Raises:
        ValueError: if one is NaN or infinite; the message names it.
    """
    for name, _ in module.named_parameters():
        if name in state and not bool(state[name].isfinite().all()):
            raise ValueError(
                f"`{role}` must have finite weights; got NaN or infinite values of {name}"
            )


def _differences(parts: dict[str, Settings], own: dict[str, Settings]) -> list[str]:
    """Return each difference between the settings in the file and here."""
    differences = []
    for part in sorted({*parts, *own}):
        there, here = parts.get(part), own.get(part)
        if there is None or here is None or there["class"] != here["class"]:
            kinds = ("missing" if each is None else each["class"] for each in (there, here))
            differences.append("{} is {} in the file and {} here".format(part or "it", *kinds))
            continue
        saved = {name: there.get(name, _default(KINDS[here["class"]], name)) for name in here}
        saved, here = _with_fields(saved), _with_fields(here)
        differences += [
            f"{part}.{name}".lstrip(".") + f" is {saved[name]!r} in the file and {value!r} here"
            for name, value in here.items()
            if saved[name] != value
        ]
    return differences


def as_recipe(recipe: Any) -> Recipe:
    """Return the recipe with a name or with fields; an older file lacks newer fields."""
    return get_recipe(Recipe(**renamed(recipe)) if isinstance(recipe, dict) else recipe)


def _with_fields(settings: Settings) -> Settings:
    """Replace a recipe by its fields, for comparison."""
    if "recipe" not in settings:
        return settings
    fields = asdict(as_recipe(settings["recipe"]))
    others = {name: value for name, value in settings.items() if name != "recipe"}
    return others | {f"recipe.{name}": value for name, value in fields.items()}


def arguments_of(kind: type[nn.Module]) -> Mapping[str, inspect.Parameter]:
    """What builds a module of this kind, by name."""
    return inspect.signature(attach if kind is WrappedClassifier else kind).parameters


def _default(kind: type[nn.Module], name: str) -> Any:
    """Return the value of a setting that an older file does not have."""
    argument = arguments_of(kind).get(name)
    return None if argument is None or argument.default is argument.empty else argument.default


def _misfits(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return each difference between a state and the module in names, shapes and dtypes."""
    own = module.state_dict()
    misfits = [f"the file lacks {name}" for name in own if name not in state]
    misfits += [f"the file has {name}, which is not here" for name in state if name not in own]
    misfits += [
        f"{name} is {_described(state[name])} in the file and {_described(tensor)} here"
        for name, tensor in own.items()
        if name in state and not _fits(state[name], tensor)
    ]
    return misfits


def _fits(saved: Tensor, own: Tensor) -> bool:
    # A module on the meta device takes the precision that was saved.
    both_floating = own.is_meta and saved.is_floating_point() and own.is_floating_point()
    return saved.shape == own.shape and (saved.dtype == own.dtype or both_floating)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
