"""Backbone for precomputed embeddings."""

from torch import Tensor, nn

from reliability_balance import checks


class Identity(nn.Module):
    """Identity, for features from a frozen model or another library.

    Args:
        embedding_dim: D.

    Shape:
        - embedding: (B, D) or tokens (B, T, D) floating; returns the same tensor.

    Raises:
        TypeError: if the embedding is not floating.
        ValueError: on a wrong rank or width.

    Example:
        >>> import torch
        >>> Identity(8)(torch.randn(2, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        checks.at_least("embedding_dim", embedding_dim, 1)
        self.embedding_dim = embedding_dim

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the embedding, after checking its shape."""
        checks.floating("embedding", embedding)
        checks.rank("embedding", embedding, f"(B, {self.embedding_dim}) or (B, T, D)", 2, 3)
        checks.width("embedding", embedding, self.embedding_dim)
        return embedding

    def extra_repr(self) -> str:
        """Return the settings that the submodules do not show."""
        return f"embedding_dim={self.embedding_dim}"
