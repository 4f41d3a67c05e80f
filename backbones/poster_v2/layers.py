"""Small layers that several parts of the encoder share."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


def named(**modules: nn.Module) -> nn.Sequential:
    """Chain modules under names of one's choice, as the published weights have them."""
    return nn.Sequential(OrderedDict(modules))


def mlp(width: int, hidden_width: int) -> nn.Sequential:
    """Two linear layers with a GELU between."""
    return named(
        fc1=nn.Linear(width, hidden_width), act=nn.GELU(), fc2=nn.Linear(hidden_width, width)
    )


class DropPath(nn.Module):
    """Leave out a residual branch for some samples in training (stochastic depth).

    Args:
        rate: probability of leaving a sample's branch out, in [0, 1); what stays is scaled up, so
            that the expectation does not change.

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
        """Return the branch, or zeros for the samples that were drawn."""
        if not self.training or self.rate == 0:
            return branch
        shape = (branch.shape[0], *(1,) * (branch.ndim - 1))
        kept = torch.empty(shape, dtype=branch.dtype, device=branch.device)
        return branch * kept.bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Name what the submodules do not show."""
        return f"rate={self.rate}"
