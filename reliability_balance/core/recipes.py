"""Recipes: the defaults of balancer, loss, targets and mixing.

Each field of a :class:`Recipe` is also an argument of the class or function that it configures; an
explicit argument overrides the recipe. Change fields with ``dataclasses.replace``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from reliability_balance import checks
from reliability_balance.functional import METRICS, Metric

RecipeName = Literal["robust", "paper"]
"""The name of a recipe."""

AttentionMode = Literal["tokens", "single", "batch", "off"]
HeadName = Literal["mlp", "linear"]

HEAD_NAMES: tuple[HeadName, ...] = ("mlp", "linear")
ATTENTION_MODES: tuple[AttentionMode, ...] = ("tokens", "single", "batch", "off")

POSITIVE = ("delta", "temperature", "noise_temperature", "memory", "held_for")
NON_NEGATIVE = (
    *("anchor_weight", "center_weight", "branch_weight", "prior_count", "annotator_prior"),
    *("mix_from", "consistency"),
)

REAL = (
    *("delta", "anchor_weight", "center_weight", "branch_weight", "label_smoothing", "momentum"),
    *("temperature", "noise_temperature", "prior_count", "held_back", "annotator_prior"),
    *("held_for", "memory", "mixing", "mix_from", "consistency"),
)
OPTIONAL = ("momentum", "mixing")

# Former names of fields, in saved recipes.
RENAMED = {"doubts_labels": "refurbishes_labels", "even_classes": "logit_adjustment"}

SMALLEST_CONCENTRATION = 0.01  # draws at smaller ones underflow


def check_concentration(name: str, value: float) -> None:
    """Require a concentration that mixing weights can be drawn with."""
    checks.positive(name, value)
    if value < SMALLEST_CONCENTRATION:
        raise ValueError(f"`{name}` must be at least {SMALLEST_CONCENTRATION}; got {value}")


def _as_float(name: str, value: Any) -> float | None:
    """Convert a number of Python, NumPy or torch, so that files can hold it."""
    if value is None and name in OPTIONAL:
        return None
    is_number = isinstance(value, Real | Tensor) and not isinstance(value, bool)
    if not is_number or (isinstance(value, Tensor) and value.ndim > 0):
        raise TypeError(f"`{name}` must be a number; got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"`{name}` must be finite; got {value!r:.20}…") from error


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe:
    """Defaults of :class:`ReliabilityBalancer`, :class:`ReliabilityLoss` and :class:`RobustLoss`.

    The field defaults are those of the "robust" recipe, found by the searches in
    ``docs/research_log.md``. A value out of range raises a ValueError that names the field.

    Args:
        num_anchors: anchors per class, >= 0.
        head: primary head.
        metric: distance metric between embeddings and anchors.
        delta: softmax temperature of Eq. 13, > 0.
        attention: attention mode for embeddings without tokens.
        token_attention: attention mode for embeddings with tokens.
        anchor_weight: weight of the anchor loss in Eq. 23, >= 0.
        center_weight: weight of the centre loss in Eq. 23, >= 0.
        branch_weight: weight of the branches' own negative log-likelihoods, >= 0.
        label_smoothing: label smoothing, in [0, 1).
        refurbishes_labels: train on :class:`labels.RefurbishedTargets`; False: on the labels as
            given.
        logit_adjustment: train with logit adjustment by the class frequencies of the labels, so
            that predictions assume a uniform class prior.
        momentum: momentum of each sample's running average of predictions; None: plain mean.
        temperature: temperature that sharpens the averaged predictions, > 0.
        noise_temperature: further temperature, > 0, that sharpens them to estimate the noise
            matrix.
        prior_count: number of learned samples of a class at which the posterior has weight 1/2
            against the given label, >= 0.
        held_back: share of the samples whose labels are held back at first, in [0, 1).
        annotator_prior: number of labels of a class at which an annotator's noise matrix is half
            their own and half the common one, >= 0.
        held_for: share of the planned epochs for which labels are held back, in (0, 1]; at most the
            warm-up.
        warmup: epochs before labels are refurbished, >= 0.
        memory: threshold of memorization, in nats, > 0. If the log-likelihood of shown labels
            exceeds that of held-back ones by more when these are released, labels are refurbished
            from then on.
        mixing: concentration of :func:`labels.mix`, >= 0.01; None: no mixing.
        mix_from: share of the warm-up after which mixing starts, >= 0. If training is planned to
            end within the warm-up, mixing starts when labels are refurbished.
        consistency: weight of :func:`functional.disagreement` between two views, >= 0.

    Example:
        >>> from dataclasses import replace
        >>> from reliability_balance import ReliabilityBalancer
        >>> sharper = replace(get_recipe("robust"), temperature=0.5)
        >>> ReliabilityBalancer(8, 3, recipe=sharper).num_classes
        3
    """

    num_anchors: int = 8
    head: HeadName = "linear"
    metric: Metric = "cosine"
    delta: float = 0.1
    attention: AttentionMode = "off"
    token_attention: AttentionMode = "tokens"
    anchor_weight: float = 0.01
    center_weight: float = 0.3
    branch_weight: float = 1.0
    label_smoothing: float = 0.0
    refurbishes_labels: bool = True
    logit_adjustment: bool = True
    momentum: float | None = None
    temperature: float = 0.6
    noise_temperature: float = 0.25
    prior_count: float = 3.0
    held_back: float = 0.1
    annotator_prior: float = 30.0
    held_for: float = 0.5
    warmup: int = 10
    memory: float = 0.3
    mixing: float | None = 0.3
    mix_from: float = 0.7
    consistency: float = 1.0

    def __post_init__(self) -> None:
        for name in REAL:
            object.__setattr__(self, name, _as_float(name, getattr(self, name)))
        checks.at_least("num_anchors", self.num_anchors, 0)
        checks.at_least("warmup", self.warmup, 0)
        checks.one_of("head", self.head, HEAD_NAMES)
        checks.one_of("metric", self.metric, METRICS)
        for name in ("attention", "token_attention"):
            checks.one_of(name, getattr(self, name), ATTENTION_MODES)
        for name in POSITIVE:
            checks.positive(name, getattr(self, name))
        for name in NON_NEGATIVE:
            checks.non_negative(name, getattr(self, name))
        for name in ("label_smoothing", "held_back"):
            checks.fraction(name, getattr(self, name))
        if self.momentum is not None:
            checks.fraction("momentum", self.momentum)
        if self.mixing is not None:
            check_concentration("mixing", self.mixing)
        for name in ("refurbishes_labels", "logit_adjustment"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be a bool; got {getattr(self, name)!r}")
        if not self.held_for <= 1.0:
            raise ValueError(
                f"`held_for` must be a share of the epochs, up to 1; got {self.held_for}"
            )

    def __repr__(self) -> str:
        """Return the fields that differ from the robust recipe."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        changed = [f"{field.name}={value!r}" for field, value in values if value != field.default]
        return f"Recipe({', '.join(changed)})"

    def held_for_of(self, epochs: float) -> int:
        """Return for how many updates of a sample its label is held back."""
        return min(self.warmup, round(self.held_for * epochs))


RECIPES: dict[RecipeName, Recipe] = {
    "robust": Recipe(),
    # Section 3.3-3.5; label smoothing 0.11 as in Table 3. The paper does not give the weights of
    # Eq. 23: these bring the three terms to a similar scale for embeddings of unit norm.
    "paper": Recipe(
        head="mlp",
        metric="euclidean",
        delta=1.0,
        attention="single",
        token_attention="single",
        center_weight=0.01,
        branch_weight=0.0,
        label_smoothing=0.11,
        refurbishes_labels=False,
        logit_adjustment=False,
        mixing=None,
    ),
}
"""The recipes that have a name."""


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved values of fields by the names that the fields have now.

    Raises:
        ValueError: if a field is given by its former name and by the one that it has now.
    """
    for old, new in RENAMED.items():
        if old in values and new in values:
            raise ValueError(f"`{new}` must be given once; got `{old}`, its former name, too")
    return {RENAMED.get(name, name): value for name, value in values.items()}


def get_recipe(recipe: "RecipeName | Recipe") -> Recipe:
    """Return the recipe with that name; a Recipe is returned unchanged.

    Raises:
        TypeError: on anything but a name or a Recipe.
        ValueError: on an unknown name; the message lists the names.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise TypeError(f"`recipe` must be a name or a Recipe; got {type(recipe).__name__}")
    checks.one_of("recipe", recipe, tuple(RECIPES))
    return RECIPES[recipe]
