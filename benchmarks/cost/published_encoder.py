"""POSTER++ as it is published: the same equations, each operation as the paper prints it.

The published model computes all tokens of its last block, takes strided shortcuts by max pooling,
materialises every attention matrix, and stores its maps channels-first.
"""

import copy

import torch
from torch import Tensor, nn

from reliability_balance.backbones import PosterV2
from reliability_balance.backbones.poster_v2.attention import WindowCrossAttention
from reliability_balance.backbones.poster_v2.ir import Subsample
from reliability_balance.backbones.poster_v2.layers import HalvingConv, PReLU
from reliability_balance.backbones.poster_v2.vision_transformer import (
    SelfAttention,
    TokenTransformer,
)


def as_published(encoder: PosterV2) -> PosterV2:
    """Return a copy of an encoder that computes the same in the published arrangement."""
    published = copy.deepcopy(encoder).to(memory_format=torch.contiguous_format)
    published.__class__ = _PosterV2
    for module in published.modules():
        for name, child in module.named_children():
            if isinstance(child, Subsample):
                setattr(module, name, nn.MaxPool2d(1, child.stride))
            for ours, theirs in ARRANGEMENTS.items():
                if type(child) is ours:
                    child.__class__ = theirs
    return published


class _PosterV2(PosterV2):
    def _prepare(self, images: Tensor) -> Tensor:
        return super()._prepare(images).contiguous()


class _WindowCrossAttention(WindowCrossAttention):
    def forward(self, windows: Tensor, query: Tensor) -> Tensor:
        batch, num_windows, positions, width = windows.shape
        flat = windows.reshape(batch * num_windows, positions, width)
        key, value = _heads(self.qkv(flat), 2, self.num_heads)
        query = query.reshape(batch, 1, positions, self.num_heads, -1).transpose(2, 3)
        query = query.expand(-1, num_windows, -1, -1, -1).flatten(0, 1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(positions, positions, -1).permute(2, 0, 1).contiguous()
        output: Tensor = self.proj(_attend(query, key, value, bias))
        return output.view_as(windows)


class _SelfAttention(SelfAttention):
    def forward(self, tokens: Tensor, num_results: int | None = None) -> Tensor:
        query, key, value = _heads(self.qkv(tokens), 3, self.num_heads)
        output: Tensor = self.proj(_attend(query, key, value))
        return output


class _TokenTransformer(TokenTransformer):
    def forward(self, tokens: Tensor, num_results: int | None = None) -> Tensor:
        return super().forward(tokens)


ARRANGEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    WindowCrossAttention: _WindowCrossAttention,
    SelfAttention: _SelfAttention,
    TokenTransformer: _TokenTransformer,
    HalvingConv: nn.Conv2d,
    PReLU: nn.PReLU,
}


def _heads(features: Tensor, parts: int, num_heads: int) -> Tensor:
    """Return queries, keys or values by head, (parts, B, I, N, d)."""
    heads: Tensor = features.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return heads


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    weights = (scores if bias is None else scores + bias).softmax(-1)
    attended: Tensor = (weights @ value).transpose(1, 2).flatten(2)
    return attended
