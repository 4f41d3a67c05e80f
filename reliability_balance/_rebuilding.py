"""Tell by which settings a module of this package was built, and build one like it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from reliability_balance.balancer import ReliabilityBalancer
from reliability_balance.calibration import TemperatureScaling, VectorScaling
from reliability_balance.heads import MLPHead
from reliability_balance.selective import Abstention, PredictionSets
from reliability_balance.targets import RefurbishedTargets
from reliability_balance.wrapping import WrappedClassifier

Settings = dict[str, Any]
OWN_HEAD = "own"


def _of_balancer(balancer: ReliabilityBalancer) -> Settings:
    attention = balancer.attention
    settings = {
        "embedding_dim": balancer.embedding_dim,
        "num_classes": balancer.num_classes,
        "num_anchors": balancer.num_anchors,
        "recipe": balancer.recipe,
        "head": _head_name(balancer),
        "metric": balancer.metric,
        "delta": balancer.delta,
        "attention": "off" if attention is None else attention.mode,
        "correction_weight": balancer.correction_weight,
    }
    if attention is not None:
        settings["num_heads"] = attention.num_heads
        settings["head_dim"] = attention.output.in_features // attention.num_heads
    return settings


def _head_name(balancer: ReliabilityBalancer) -> str | None:
    if balancer.head is None:
        return None
    if type(balancer.head) is nn.Linear:
        return "linear"
    with torch.device("meta"):
        usual = MLPHead(balancer.embedding_dim, balancer.num_classes)
    # A module's text tells all of its sizes.
    return "mlp" if repr(balancer.head) == repr(usual) else OWN_HEAD


def _of_wrapped(model: WrappedClassifier) -> Settings:
    """What a second wrapping must repeat; not enough to build the model, which is the user's."""
    layers = model.model.named_modules()
    tapped = [name for name, layer in layers if model._tap in layer._forward_hooks.values()]
    return {"keep_head": model.keep_head, "tap": model._tap.side, "layer": "".join(tapped)}


def _of_targets(targets: RefurbishedTargets) -> Settings:
    num_samples, num_classes = targets.average.shape
    return {
        "num_samples": num_samples,
        "num_classes": num_classes,
        "momentum": targets.momentum,
        "temperature": targets.temperature,
        "warmup": targets.warmup,
    }


# What is not told by a setting lies in the state: sizes of weights, dtypes, fitted thresholds.
SETTINGS: dict[type[nn.Module], Callable[[Any], Settings]] = {
    ReliabilityBalancer: _of_balancer,
    WrappedClassifier: _of_wrapped,
    RefurbishedTargets: _of_targets,
    TemperatureScaling: lambda scaling: {},
    VectorScaling: lambda scaling: {"num_classes": len(scaling.weight)},
    PredictionSets: lambda sets: {"coverage": sets.coverage},
    Abstention: lambda abstention: {"max_risk": abstention.max_risk, "delta": abstention.delta},
}
BUILDABLE = {kind.__name__: kind for kind in SETTINGS if kind is not WrappedClassifier}


def parts_of(module: nn.Module) -> dict[str, Settings]:
    """Class and settings of each part that is this package's, by its name within the module."""
    return {
        name: {"class": type(part).__name__, **SETTINGS[type(part)](part)}
        for name, part in module.named_modules()
        if type(part) in SETTINGS
    }


def build(settings: Settings) -> nn.Module:
    """Build a module on the meta device: it has shapes, but no values until they are assigned.

    Raises:
        ValueError: if it cannot be built from its settings alone.
    """
    arguments = dict(settings)
    kind = BUILDABLE.get(arguments.pop("class"))
    if kind is None or arguments.get("head") == OWN_HEAD:
        raise ValueError("it has layers of your own")
    with torch.device("meta"):
        return kind(**arguments)
