"""Every default of balancer, loss, targets and mixing, once: the paper's, and our best.

Every field of a :class:`Recipe` is also an argument of what it is a default of, and an argument
that is given wins over the recipe. Copies with other values are made by ``dataclasses.replace``.
"""

from dataclasses import dataclass
from typing import Literal

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

SMALLEST_CONCENTRATION = 0.01  # draws for smaller ones underflow, to halves


def check_concentration(name: str, value: float) -> None:
    """Require a concentration of mixing from which shares can be drawn."""
    checks.positive(name, value)
    if value < SMALLEST_CONCENTRATION:
        raise ValueError(f"`{name}` must be at least {SMALLEST_CONCENTRATION}; got {value}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Defaults of :class:`ReliabilityBalancer`, :class:`ReliabilityLoss` and :class:`RobustLoss`.

    As it stands it is the robust one, found by the searches of ``docs/research_log.md``. A value
    out of its range raises a ValueError that names the field.

    Args:
        num_anchors: K anchors of each class, >= 0.
        head: the primary branch.
        metric: of the distances to the anchors.
        delta: softness of Eq. 13, > 0.
        attention: of an embedding that is one vector.
        token_attention: of an embedding that has tokens.
        anchor_weight: factor of the anchor loss in Eq. 23, >= 0.
        center_weight: factor of the centre loss in Eq. 23, >= 0.
        branch_weight: factor of the branches' own likelihoods, >= 0.
        label_smoothing: share of each label spread evenly, in [0, 1).
        doubts_labels: whether targets are :class:`targets.RefurbishedTargets`; False trains on the
            labels as they are.
        even_classes: whether classes count alike, however often they occur: the loss is for classes
            as frequent as in the labels, and the model answers for evenly frequent ones.
        momentum: of the samples' running averages; None for the plain mean.
        temperature: that beliefs are sharpened by, > 0.
        noise_temperature: by which they are sharpened once more to count noise, > 0.
        prior_count: recognised samples of a class at which its labels are half doubted, >= 0.
        held_back: share of the labels that are held back at first, in [0, 1).
        annotator_prior: labels of a class at which an annotator's noise matrix is half their own
            and half the common one, >= 0.
        held_for: share of the planned epochs for which labels are held back, in (0, 1]; never for
            longer than the warm-up.
        warmup: passes over the samples before labels are doubted, >= 0.
        memory: nats by which shown labels are known better than held-back ones, > 0, above which
            doubts begin when these are given back.
        mixing: concentration of :func:`mixing.mix`, > 0; None for no mixing.
        mix_from: share of the warm-up before mixing begins, >= 0; a training that is planned to end
            within the warm-up is mixed from when labels are doubted.
        consistency: factor of :func:`functional.disagreement`, where there is a second view, >= 0.

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
    doubts_labels: bool = True
    even_classes: bool = True
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
        for name in ("doubts_labels", "even_classes"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be a bool; got {getattr(self, name)!r}")
        if not self.held_for <= 1.0:
            raise ValueError(
                f"`held_for` must be a share of the epochs, up to 1; got {self.held_for}"
            )

    def held_for_of(self, epochs: float) -> int:
        """Updates of a sample for which its label is held back, in so many epochs."""
        return min(self.warmup, round(self.held_for * epochs))


RECIPES: dict[RecipeName, Recipe] = {
    "robust": Recipe(),
    # Section 3.3-3.5; smoothing 11 % is the paper's choice (Table 3), the weights of Eq. 23 are
    # not printed: these keep the three terms in one scale for embeddings of unit size.
    "paper": Recipe(
        head="mlp",
        metric="euclidean",
        delta=1.0,
        attention="single",
        token_attention="single",
        center_weight=0.01,
        branch_weight=0.0,
        label_smoothing=0.11,
        doubts_labels=False,
        even_classes=False,
        mixing=None,
    ),
}
"""The recipes that have a name."""


def get_recipe(recipe: "RecipeName | Recipe") -> Recipe:
    """Return the recipe of that name, or a recipe as it is.

    Raises:
        ValueError: on a name that is none; the message lists the names.
    """
    if isinstance(recipe, Recipe):
        return recipe
    checks.one_of("recipe", recipe, tuple(RECIPES))
    return RECIPES[recipe]
