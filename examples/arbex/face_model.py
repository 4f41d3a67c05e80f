"""The model: an encoder and the balancer on its embedding."""

from typing import cast

from torch import Tensor, nn

from examples.arbex.configuration import RunConfig
from examples.arbex.encoders import build_encoder
from reliability_balance import BalancerOutput, ReliabilityBalancer


class FaceModel(nn.Module):
    """Encoder and balancer: maps faces to corrected label distributions (Fig. 2).

    Args:
        encoder: a module with ``embedding_dim``, from (B, 3, H, W) to (B, D) or (B, T, D).
        balancer: on its embedding.

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


def build_model(config: RunConfig, num_classes: int) -> FaceModel:
    """Build the recipe's model with new weights.

    Args:
        config: the configuration.
        num_classes: C.
    """
    encoder = build_encoder(config.encoder.name, config.encoder.options)
    embedding_dim = cast(int, encoder.embedding_dim)
    balancer = ReliabilityBalancer(embedding_dim, num_classes, recipe=config.recipe)
    return FaceModel(encoder, balancer)
