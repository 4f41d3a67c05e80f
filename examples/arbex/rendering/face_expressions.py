"""Expressions as sums of facial actions, blends of them, and their label distributions.

An expression is a row of action strengths, similar to the Facial Action Coding System. A face shows
a blend: weights over the classes. The weights determine both the drawing (the weighted sum of the
rows) and the true distribution of labels, which is known exactly.
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
# Relative frequency with which the class of the row is confused with that of the column.
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

# The dominant expression gets more votes: shares grow with the square of the blend's weights.
DOMINANCE = 2.0


class Blends(NamedTuple):
    """Blends of N faces, with their label distributions."""

    weights: Tensor  # (N, 7), rows sum to 1
    distributions: Tensor  # (N, 7) float32, the true distribution of labels
    labels: Tensor  # (N,) int64, one draw from each distribution


def class_prior(imbalance: float) -> Tensor:
    """Return (7,) class shares that fall geometrically, by a factor `imbalance` in total."""
    ranks = torch.empty(len(CLASS_NAMES))
    ranks[list(CLASSES_BY_FREQUENCY)] = torch.linspace(0.0, 1.0, len(CLASS_NAMES))
    shares = imbalance**-ranks
    return shares / shares.sum()


def label_distribution(weights: Tensor) -> Tensor:
    """Return the label distribution of blends.

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
    """Draw blends of a main expression with a second and a third one, of random strength.

    Args:
        count: N.
        imbalance: frequency of the most frequent class over that of the rarest, >= 1.
        ambiguity: in [0, 1]. 0: pure expressions at full strength. 1: the second expression is up
            to half of the blend, and the strength goes down to half way to neutral.
        generator: random number generator.
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
