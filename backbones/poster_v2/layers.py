"""Small layers shared by parts of the encoder."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def named(**modules: nn.Module) -> nn.Sequential:
    """Chain modules with given names, to match the published weights."""
    return nn.Sequential(OrderedDict(modules))


def mlp(width: int, hidden_width: int) -> nn.Sequential:
    """Build two linear layers with a GELU between."""
    return named(
        fc1=nn.Linear(width, hidden_width), act=nn.GELU(), fc2=nn.Linear(hidden_width, width)
    )


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for random samples in training.

    Args:
        rate: drop probability for each sample, in [0, 1); kept branches are scaled up to preserve
            the expectation.

    Shape:
        - branch: (B, ...) floating; returns the same shape.

    Reference: Huang et al., Deep Networks with Stochastic Depth, 2016.

    Example:
        >>> DropPath(0.5).eval()(torch.ones(2, 3)).sum()
        tensor(6.)
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, zero for dropped samples."""
        if not self.training or self.rate == 0:
            return branch
        shape = (branch.shape[0], *(1,) * (branch.ndim - 1))
        kept = torch.empty(shape, dtype=branch.dtype, device=branch.device)
        return branch * kept.bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Return the rate."""
        return f"rate={self.rate}"
