"""The method of a run: one of the library's recipes, and what is to differ from it.

All defaults of balancer, loss, targets and mixing are the library's. The section `recipe` of a
configuration has `base`, "robust" or "paper", and any field of
:class:`reliability_balance.recipes.Recipe`.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from option_types import option_types

from reliability_balance import ReliabilityBalancer, RobustLoss
from reliability_balance.recipes import Recipe, RecipeName, get_recipe


def base_of(section: Mapping[str, Any]) -> RecipeName:
    """The library's recipe that a section `recipe` begins with."""
    base: RecipeName = section.get("base", "robust")
    return base


def method_of(section: Mapping[str, Any]) -> Recipe:
    """The library's recipe with the changes of a section `recipe`."""
    changes = {name: value for name, value in section.items() if name != "base"}
    return replace(get_recipe(base_of(section)), **changes)


def changes_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """The base of a section `recipe` and what differs from it, after the library took all values.

    Raises:
        ValueError: if the library does not.
    """
    base, method = base_of(section), method_of(section)
    try:
        with torch.device("meta"):  # without memory, and without a draw from the generator
            balancer = build_balancer(base, method, 1, 2, has_tokens=False)
        labels = torch.tensor([0, 1], device="cpu")
        RobustLoss(balancer, labels, epochs=1000, recipe=method)  # long enough for any warm-up
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"must be values that the library takes: {error}") from error
    defaults = asdict(get_recipe(base))
    changes = {name: value for name, value in asdict(method).items() if value != defaults[name]}
    return {"base": base, **changes}


def build_balancer(
    base: RecipeName, method: Recipe, embedding_dim: int, num_classes: int, *, has_tokens: bool
) -> ReliabilityBalancer:
    """A balancer with every argument that the recipe has a field for."""
    arguments = option_types(ReliabilityBalancer).keys() & asdict(method).keys()
    options = {name: getattr(method, name) for name in arguments}
    options["attention"] = method.token_attention if has_tokens else method.attention
    return ReliabilityBalancer(embedding_dim, num_classes, recipe=base, **options)
