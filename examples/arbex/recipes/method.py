"""The method of a run: one of the library's recipes, with changes.

All defaults of balancer, loss, targets and mixing are the library's. The section `recipe` of a
configuration has `base`, "robust" or "paper", and any field of
:class:`reliability_balance.core.Recipe` except `attention`. Attention is always on, over the
encoder's tokens or over slices of its vector: without it, a small encoder hardly learns from noisy
labels.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from examples.arbex.recipes.option_types import option_types
from reliability_balance import ReliabilityBalancer
from reliability_balance.core import Recipe, RecipeName, get_recipe

NOT_A_KEY = "attention"
SMALLEST_DELTA = 1e-6  # smaller ones overflow in 32 bits


def base_of(section: Mapping[str, Any]) -> RecipeName:
    """Return the name of the library's recipe that a section `recipe` is based on."""
    base: RecipeName = section.get("base", "robust")
    return base


def method_of(section: Mapping[str, Any]) -> Recipe:
    """Return the library's recipe with the changes of a section `recipe`."""
    changes = {name: value for name, value in section.items() if name != "base"}
    return replace(get_recipe(base_of(section)), **changes)


def values_of(method: Recipe) -> dict[str, Any]:
    """Return the values of a method by the keys of a section `recipe`."""
    return {name: value for name, value in asdict(method).items() if name != NOT_A_KEY}


def changes_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base of a section `recipe` and its changes, validated by the library.

    Raises:
        ValueError: if the library rejects a value.
    """
    base, method = base_of(section), method_of(section)
    if method.delta < SMALLEST_DELTA:
        raise ValueError(f"`delta` must be at least {SMALLEST_DELTA}; got {method.delta}")
    try:
        with torch.device("meta"):  # allocates nothing and draws no random numbers
            build_balancer(base, method, 1, 2)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"must be values that the library accepts: {error}") from error
    defaults = values_of(get_recipe(base))
    changes = {name: value for name, value in values_of(method).items() if value != defaults[name]}
    return {"base": base, **changes}


def build_balancer(
    base: RecipeName, method: Recipe, embedding_dim: int, num_classes: int
) -> ReliabilityBalancer:
    """Build a balancer with every argument that the recipe has a field for."""
    values = values_of(method)
    options = {name: values[name] for name in option_types(ReliabilityBalancer) if name in values}
    return ReliabilityBalancer(
        embedding_dim, num_classes, recipe=base, attention=method.token_attention, **options
    )
