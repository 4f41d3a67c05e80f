"""The balancer, its outputs, its losses, and the recipes that set them up."""

from reliability_balance.core.attention import AttentiveCorrection
from reliability_balance.core.balancer import BalancerOptions, ReliabilityBalancer
from reliability_balance.core.class_prior import log_frequencies, with_class_prior
from reliability_balance.core.heads import MLPHead
from reliability_balance.core.losses import AnchorLoss, CenterLoss, LossTerms, ReliabilityLoss
from reliability_balance.core.output import BalancerOutput, join_outputs, on_cpu
from reliability_balance.core.recipes import RECIPES, Recipe, RecipeName, get_recipe

__all__ = [
    "RECIPES",
    "AnchorLoss",
    "AttentiveCorrection",
    "BalancerOptions",
    "BalancerOutput",
    "CenterLoss",
    "LossTerms",
    "MLPHead",
    "Recipe",
    "RecipeName",
    "ReliabilityBalancer",
    "ReliabilityLoss",
    "get_recipe",
    "join_outputs",
    "log_frequencies",
    "on_cpu",
    "with_class_prior",
]
