"""Named sets of defaults: the paper to the letter, and the best that we have measured.

Every field is also a constructor argument of :class:`ReliabilityBalancer` or
:class:`ReliabilityLoss`, and an argument that is given wins over the recipe.
"""

from dataclasses import dataclass
from typing import Literal

from reliability_balance import _checks
from reliability_balance.functional import Metric

RecipeName = Literal["robust", "paper"]
AttentionMode = Literal["tokens", "single", "batch", "off"]

ATTENTION_MODES: tuple[AttentionMode, ...] = ("tokens", "single", "batch", "off")


@dataclass(frozen=True)
class Recipe:
    """Defaults of the balancer (first three fields) and of its loss (the others)."""

    metric: Metric
    delta: float
    attention: AttentionMode
    anchor_weight: float
    center_weight: float
    branch_weight: float
    label_smoothing: float


RECIPES: dict[RecipeName, Recipe] = {
    # Section 3.3-3.5; smoothing 11 % is the paper's choice (Table 3), the weights of Eq. 23 are
    # not printed: these keep the three terms in one scale for embeddings of unit size.
    "paper": Recipe(
        metric="euclidean",
        delta=1.0,
        attention="single",
        anchor_weight=0.01,
        center_weight=0.01,
        branch_weight=0.0,
        label_smoothing=0.11,
    ),
    "robust": Recipe(
        metric="cosine",
        delta=0.1,
        attention="tokens",
        anchor_weight=0.01,
        center_weight=0.3,
        branch_weight=1.0,
        label_smoothing=0.0,
    ),
}


def get_recipe(name: RecipeName) -> Recipe:
    """Return the recipe of that name, or raise a ValueError that lists the names."""
    _checks.one_of("recipe", name, tuple(RECIPES))
    return RECIPES[name]
