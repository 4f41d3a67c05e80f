"""The model: an encoder, and the balancer on its embedding."""

from typing import cast

import torch
from configuration import Recipe
from encoders import build_encoder
from torch import Tensor, nn

from reliability_balance import BalancerOutput, ReliabilityBalancer


class FaceModel(nn.Module):
    """From faces to corrected label distributions (Fig. 2).

    Args:
        encoder: a module with ``embedding_dim``, from (B, 3, H, W) to (B, D).
        balancer: takes its embedding.

    Shape:
        - images: (B, 3, H, W) floating, normalised; returns a :class:`BalancerOutput`.
    """

    def __init__(self, encoder: nn.Module, balancer: ReliabilityBalancer) -> None:
        super().__init__()
        self.encoder = encoder
        self.balancer = balancer

    def forward(self, images: Tensor) -> BalancerOutput:
        """Encode and balance one batch."""
        output: BalancerOutput = self.balancer(self.encoder(images))
        return output


def build_model(recipe: Recipe, num_classes: int, class_counts: Tensor | None = None) -> FaceModel:
    """Build the recipe's model, with new weights.

    Args:
        recipe: what to build.
        num_classes: C.
        class_counts: (C,) faces of each class, for a recipe with ``class_prior``; None for even
            ones, where weights are going to be loaded.
    """
    encoder = build_encoder(recipe.encoder.name, recipe.encoder.options)
    settings = recipe.balancer
    if class_counts is None:
        class_counts = torch.zeros(num_classes, device="cpu")
    balancer = ReliabilityBalancer(
        cast(int, encoder.embedding_dim),
        num_classes,
        num_anchors=settings.num_anchors,
        recipe=settings.recipe,
        head=settings.head,
        attention=settings.attention,
        delta=settings.delta,
        # One more of each, since a class may have no face.
        class_prior=class_counts + 1 if settings.class_prior else None,
    )
    return FaceModel(encoder, balancer)
