"""Attentive correction: multi-head self-attention over the embedding (Eq. 15-17)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance import checks
from reliability_balance.core.recipes import ATTENTION_MODES, AttentionMode
from reliability_balance.core.settings import Configured

MAX_PARTS = 8


class AttentiveCorrection(Configured):
    r"""Multi-head self-attention over an embedding, followed by class logits (Eq. 15-17).

    .. math:: h_i = f(W_i^q q, W_i^k k, W_i^v v), \quad t_a = softmax(W_{out} [h_1 \dots h_n])

    with q = k = v = e and f the scaled dot-product attention. The paper does not say what the
    sequence is; `mode` selects it:

    - "tokens": the T tokens of a (B, T, D) embedding, or equal parts of a (B, D) embedding, each
      projected by its own slice of W. The outputs are averaged over tokens.
    - "single": one vector, the literal paper. The softmax over one key is 1, so this is a linear
      map.
    - "batch": the samples of the batch, for comparison only: a prediction then depends on the rest
      of its batch.

    Args:
        embedding_dim: D.
        num_classes: C.
        mode: see above.
        num_heads: number of heads n.
        head_dim: width of the queries, keys and values of each head.

    Shape:
        - embedding: (B, D) or (B, T, D) floating; token_mask: (B, T) bool, False for padding, or
          None; returns (B, C) logits.

    Raises:
        ValueError: on sizes below 1, or an unknown mode.

    Example:
        >>> attention = AttentiveCorrection(16, num_classes=3)
        >>> attention(torch.randn(2, 16)).shape, attention(torch.randn(2, 5, 16)).shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    SETTINGS: ClassVar = {
        "embedding_dim": int,
        "num_classes": int,
        "mode": str,
        "num_heads": int,
        "head_dim": int,
    }

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        mode: AttentionMode = "tokens",
        num_heads: int = 4,
        head_dim: int = 32,
    ) -> None:
        super().__init__()
        checks.at_least("embedding_dim", embedding_dim, 1)
        checks.at_least("num_classes", num_classes, 2)
        checks.at_least("num_heads", num_heads, 1)
        checks.at_least("head_dim", head_dim, 1)
        checks.one_of("mode", mode, tuple(m for m in ATTENTION_MODES if m != "off"))
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.mode = mode
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_parts = _largest_divisor(embedding_dim, MAX_PARTS)
        width = num_heads * head_dim
        self.projection = nn.Linear(embedding_dim, 3 * width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, embedding: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Return the logits of Eq. 17, before the softmax."""
        if self.mode == "batch":
            neighbours = self.projection(pool_tokens(embedding, token_mask)).unsqueeze(0)
            attended = self._attend(neighbours).squeeze(0)
        elif self.mode == "single":
            alone = self.projection(pool_tokens(embedding, token_mask)).unsqueeze(1)
            attended = self._attend(alone).squeeze(1)
        elif embedding.ndim == 2:
            attended = self._attend(self._project_parts(embedding)).mean(1)
        else:
            if token_mask is not None:
                # Padding has weight 0, but 0 times NaN is NaN.
                embedding = embedding.where(token_mask.unsqueeze(-1), 0.0)
            tokens = self.projection(embedding)
            attended = pool_tokens(self._attend(tokens, token_mask), token_mask)
        logits: Tensor = self.output(attended)
        return logits

    def _project_parts(self, embedding: Tensor) -> Tensor:
        """Project each of P equal parts of (B, D) by its own slice of W: (B, P, 3 width)."""
        parts = embedding.unflatten(-1, (self.num_parts, -1))
        slices = self.projection.weight.unflatten(-1, (self.num_parts, -1))
        return torch.einsum("bpi,opi->bpo", parts, slices) + self.projection.bias

    def _attend(self, projected: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Attend over T in (B, T, 3 width) and concatenate the heads: (B, T, width)."""
        query, key, value = projected.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        heads = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if token_mask is None else token_mask[:, None, None, :],
        )
        return heads.transpose(1, 2).flatten(-2)


def pool_tokens(embedding: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Average (B, T, D) over its tokens, without padding; (B, D) is returned unchanged."""
    if embedding.ndim == 2:
        return embedding
    if token_mask is None:
        return embedding.mean(1)
    kept = token_mask.unsqueeze(-1)
    # Padding may hold any values, also NaN.
    return embedding.where(kept, 0.0).sum(1) / kept.sum(1).clamp_min(1)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
