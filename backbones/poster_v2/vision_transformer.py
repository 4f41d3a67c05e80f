"""Transformer over the tokens of all scales (Eq. 6-8)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance.backbones.poster_v2.layers import is_plain_linear, mlp
from reliability_balance.backbones.poster_v2.recompute import run_segment


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens.

    Args:
        width: D, a multiple of `num_heads`.
        num_heads: number of heads.

    Shape:
        - tokens: (B, T, D) floating; returns (B, R, D), with R = `num_results` or T.

    Example:
        >>> SelfAttention(8, num_heads=2)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, num_results: int | None = None) -> Tensor:
        """Return what the first tokens attend to. None: all of them."""
        if num_results == 1 and is_plain_linear(self.qkv):
            return self._attend_from_first(tokens)
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        heads = F.scaled_dot_product_attention(
            query[:, :num_results].transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        output: Tensor = self.proj(heads.transpose(1, 2).flatten(-2))
        return output

    def _attend_from_first(self, tokens: Tensor) -> Tensor:
        """Return what the first token attends to, without the others' keys and values.

        By q (W_k x) = (q W_k) x and sum_t a_t (W_v x_t) = W_v (sum_t a_t x_t). The key's bias adds
        the same to all scores, so that the softmax ignores it.
        """
        to_query, to_key, to_value = self.qkv.weight.unflatten(0, (3, self.num_heads, -1))
        of_query, _, of_value = self.qkv.bias.unflatten(0, (3, self.num_heads, -1))
        query = torch.einsum("bc,idc->bid", tokens[:, 0], to_query) + of_query
        query = torch.einsum("bid,idc->bic", query * query.shape[-1] ** -0.5, to_key)
        mean = (query @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        heads = torch.einsum("bic,idc->bid", mean, to_value) + of_value
        output: Tensor = self.proj(heads.flatten(1)[:, None])
        return output


class TransformerBlock(nn.Module):
    r"""Pre-norm transformer encoder block (Eq. 7-8).

    .. math:: X_{o'} = MHSA(Norm(X_o)) + X_o, \quad X_{o,out} = MLP(Norm(X_{o'})) + X_{o'}

    Args:
        width: D.
        num_heads: heads of the self-attention.
        mlp_ratio: hidden width of the MLP, as a multiple of D.

    Shape:
        - tokens: (B, T, D) floating; returns (B, R, D), with R = `num_results` or T.

    Differs from paper: Eq. 7 prints no norm and Eq. 8 prints Norm(X_o); the published weights are
    for the standard block above.

    Example:
        >>> TransformerBlock(8, num_heads=2)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, num_results: int | None = None) -> Tensor:
        """Return X_o,out of Eq. 8 for the first tokens. None: for all of them."""
        tokens = tokens[:, :num_results] + self.attn(self.norm1(tokens), num_results)
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class ChannelGate(nn.Module):
    """Squeeze-and-excitation of a vector: scale each channel by a gate computed from all channels.

    Args:
        width: D.

    Shape:
        - embedding: (..., D) floating; returns (..., D).

    Example:
        >>> ChannelGate(8)(torch.randn(2, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the gated embedding."""
        gate: Tensor = self.linear2(self.linear1(embedding).relu()).sigmoid()
        return embedding * gate


class TokenTransformer(nn.Module):
    """Transformer encoder with class token and positional embeddings (Eq. 6-8).

    Args:
        num_tokens: T, without the class token.
        width: D.
        depth: number of blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden width of each MLP, as a multiple of D.
        recompute: whether to recompute activations in the backward pass, see :func:`run_segment`.

    Shape:
        - tokens: (B, T, D) floating; returns (B, R, D), normalised, with the class token first;
          R = `num_results` or 1 + T.

    State:
        ``se_block`` is here because of its published name; the encoder applies it.

    Example:
        >>> TokenTransformer(5, width=8, depth=1, num_heads=2)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 6, 8])
    """

    def __init__(
        self,
        num_tokens: int,
        *,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + num_tokens, width))
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, num_heads, mlp_ratio) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.se_block = ChannelGate(width)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, num_results: int | None = None) -> Tensor:
        """Return the first tokens, class token first. None: all of them."""
        class_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + self.pos_embed
        *blocks, last = self.blocks
        for block in blocks:
            tokens = run_segment(block, tokens, recompute=self.recompute)
        tokens = run_segment(last, tokens, num_results, recompute=self.recompute)
        normalised: Tensor = self.norm(tokens)
        return normalised
