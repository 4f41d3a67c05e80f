"""Hypothesis strategies: tensors whose shape, scale and dtype vary, and whose values may be edges.

Hypothesis chooses sizes, scales and a seed, and torch the values, so that an example is cheap
and a failure is small to read.
"""

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What one rounding to the dtype may cost in a sum of probabilities.
SUM_TOLERANCE = {
    torch.float16: 1e-5,
    torch.bfloat16: 1e-5,
    torch.float32: 1e-5,
    torch.float64: 1e-12,
}

dtypes = st.sampled_from(DTYPES)
num_classes = st.integers(2, 12)


@st.composite
def logits(draw: st.DrawFn, classes: int | None = None, limit: float = 1e4) -> Tensor:
    """(B, C) float64 in [-limit, limit]: random at some scale, constant, one-hot or extreme."""
    batch_size = draw(st.integers(1, 6))
    width = draw(num_classes) if classes is None else classes
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["random", "constant", "one-hot", "extreme"]))
    scale = draw(st.sampled_from([1e-6, 1.0, 30.0, limit]))
    values = torch.rand(batch_size, width, generator=generator, dtype=torch.float64) * 2 - 1
    if kind == "constant":
        return torch.full_like(values, scale)
    if kind == "one-hot":
        hot = torch.randint(width, (batch_size,), generator=generator)
        return torch.nn.functional.one_hot(hot, width).double() * scale
    if kind == "extreme":
        return values.sign() * limit
    return values * scale


@st.composite
def distributions(draw: st.DrawFn, classes: int | None = None) -> Tensor:
    """(B, C) float64 probabilities, from uniform to exactly one-hot."""
    return draw(logits(classes)).softmax(-1)


@st.composite
def distribution_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Two (B, C) float64 sets of probabilities of one shape."""
    width = draw(num_classes)
    first, second = draw(distributions(width)), draw(distributions(width))
    count = min(len(first), len(second))
    return first[:count], second[:count]


@st.composite
def points_and_anchors(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(B, D) embedding and (C, K, D) anchors in float64; some points lie on an anchor."""
    batch_size, classes = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    anchors_per_class, width = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    anchors = torch.randn(
        classes, anchors_per_class, width, generator=generator, dtype=torch.float64
    )
    embedding = torch.randn(batch_size, width, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        embedding[0] = anchors[0, 0]
    return embedding * scale, anchors * scale
