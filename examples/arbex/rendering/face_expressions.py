"""Expressions as sums of facial actions, blends of them, and the labels that people would give.

An expression is a row of action strengths, in the spirit of the Facial Action Coding System. A
face shows a blend: weights over the classes. From the weights follow both the drawing (the
weighted sum of the rows) and the true distribution of labels, so the truth is known exactly.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CLASS_NAMES = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
NEUTRAL = 0
# From the most to the least frequent, as in RAF-DB.
CLASSES_BY_FREQUENCY = (4, 0, 5, 6, 1, 2, 3)

# fmt: off
ACTION_NAMES = (
    "brow_inner", "brow_outer", "brow_furrow", "eye_open", "lower_lid", "mouth_curve",
    "mouth_open", "mouth_wide", "upper_lip", "nose_wrinkle", "teeth", "lip_press",
)
ACTIONS = torch.tensor([
    # inner outer  furrow  open   lid    curve  open   wide  upper wrinkle teeth press
    [ 0.00,  0.00,  0.00,  0.00,  0.00,  0.00,  0.00,  0.00,  0.00,  0.00,  0.00,  0.00],
    [-1.00,  0.40,  1.00, -0.15,  0.30, -0.55,  0.16,  0.15,  0.10,  0.35,  1.00,  0.60],
    [-0.60, -0.10,  0.50, -0.50,  0.75, -0.60,  0.10, -0.10,  1.00,  1.00,  0.00,  0.00],
    [ 0.95,  0.10,  0.60,  0.60,  0.00, -0.45,  0.42,  0.40,  0.00,  0.00,  0.60,  0.00],
    [ 0.10,  0.15,  0.00, -0.20,  0.80,  1.00,  0.42,  0.50,  0.10,  0.00,  1.00,  0.00],
    [ 0.80, -0.60,  0.40, -0.40,  0.10, -0.95,  0.00, -0.25,  0.00,  0.00,  0.00,  0.10],
    [ 1.00,  1.00,  0.00,  0.70,  0.00,  0.00,  1.00, -0.50,  0.00,  0.00,  0.00,  0.00],
])
# How readily people take the class of the row for that of the column.
CONFUSABLE = torch.tensor([
    [0.0, 1.0, 0.5, 0.5, 1.5, 3.0, 0.7],
    [1.0, 0.0, 4.0, 0.5, 0.1, 1.0, 0.3],
    [0.5, 4.0, 0.0, 0.5, 0.2, 1.5, 0.2],
    [0.5, 0.5, 0.5, 0.0, 0.1, 1.0, 4.0],
    [3.0, 0.2, 0.3, 0.2, 0.0, 0.2, 1.5],
    [3.0, 0.8, 1.2, 1.0, 0.1, 0.0, 0.2],
    [0.7, 0.3, 0.2, 4.0, 1.5, 0.2, 0.0],
])
# fmt: on

# Observers see what dominates: the share of votes grows with the square of the share in the blend.
DOMINANCE = 2.0


class Blends(NamedTuple):
    """What N faces show, and what people would call it."""

    weights: Tensor  # (N, 7), rows sum to 1
    distributions: Tensor  # (N, 7) float32, the true distribution of labels
    labels: Tensor  # (N,) int64, one draw from each distribution


def class_prior(imbalance: float) -> Tensor:
    """(7,) shares of the classes that fall evenly in the logarithm, by `imbalance` in all."""
    ranks = torch.empty(len(CLASS_NAMES))
    ranks[list(CLASSES_BY_FREQUENCY)] = torch.linspace(0.0, 1.0, len(CLASS_NAMES))
    shares = imbalance**-ranks
    return shares / shares.sum()


def label_distribution(weights: Tensor) -> Tensor:
    """Distribution of the labels that people give to a blend.

    Shape:
        - weights: (N, 7) rows that sum to 1; returns (N, 7).

    Example:
        >>> label_distribution(torch.tensor([[0.75, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]]))[0, :2]
        tensor([0.9000, 0.1000])
    """
    votes = weights**DOMINANCE
    return votes / votes.sum(-1, keepdim=True)


def draw_blends(
    count: int, imbalance: float, ambiguity: float, generator: torch.Generator
) -> Blends:
    """Draw a main expression with less of a second and a third, weak or strong.

    Args:
        count: N.
        imbalance: frequency of the most frequent class over that of the rarest, >= 1.
        ambiguity: in [0, 1]. 0 shows pure, full expressions; at 1 the second expression has up
            to half of the blend, and the whole may be as weak as half way to neutral.
        generator: of the draws.
    """
    main = class_prior(imbalance).multinomial(count, replacement=True, generator=generator)
    others = CONFUSABLE[main].multinomial(2, generator=generator)
    uniform = torch.rand(count, 3, generator=generator)
    second, third = 0.5 * ambiguity * uniform[:, 0], 0.12 * ambiguity * uniform[:, 1]
    strength = 1.0 - 0.5 * ambiguity * uniform[:, 2]
    rows = torch.arange(count)
    weights = torch.zeros(count, len(CLASS_NAMES))
    weights[rows, main] = (1.0 - second) * (1.0 - third)
    weights[rows, others[:, 0]] += second * (1.0 - third)
    weights[rows, others[:, 1]] += third
    weights *= strength.unsqueeze(-1)
    weights[:, NEUTRAL] += 1.0 - strength
    distributions = label_distribution(weights)
    labels = distributions.multinomial(1, generator=generator).squeeze(-1)
    return Blends(weights, distributions, labels)
