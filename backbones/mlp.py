"""Backbone for vectors, such as tabular data."""

from torch import Tensor, nn

from reliability_balance import checks


class MLP(nn.Module):
    """Linear layers with layer norm, GELU and dropout.

    Args:
        input_dim: F, width of the input.
        embedding_dim: D, width of every layer and of the embedding.
        depth: number of layers.
        dropout: drop probability, in [0, 1).

    Shape:
        - features: (B, F) floating, or (B, T, F) for T vectors that become tokens; returns (B, D)
          or (B, T, D).

    Raises:
        TypeError: if the features are not floating.
        ValueError: on sizes below 1, a dropout outside [0, 1), or a wrong rank or width.

    Example:
        >>> import torch
        >>> MLP(10, embedding_dim=16)(torch.randn(4, 10)).shape
        torch.Size([4, 16])
    """

    def __init__(
        self, input_dim: int, *, embedding_dim: int = 64, depth: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        checks.at_least("input_dim", input_dim, 1)
        checks.at_least("embedding_dim", embedding_dim, 1)
        checks.at_least("depth", depth, 1)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1); got {dropout}")
        self.input_dim = input_dim
        self.embedding_dim = embedding_dim
        layers: list[nn.Module] = []
        for width in (input_dim, *(embedding_dim,) * (depth - 1)):
            layers += [
                nn.Linear(width, embedding_dim),
                nn.LayerNorm(embedding_dim),
                nn.GELU(),
                nn.Dropout(dropout),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return the embedding."""
        checks.floating("features", features)
        checks.rank("features", features, f"(B, {self.input_dim}) or (B, T, F)", 2, 3)
        checks.width("features", features, self.input_dim)
        embedding: Tensor = self.layers(features)
        return embedding
