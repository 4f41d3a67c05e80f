"""Small layers shared by parts of the encoder."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def named(**modules: nn.Module) -> nn.Sequential:
    """Chain modules with given names, to match the published weights."""
    return nn.Sequential(OrderedDict(modules))


def mlp(width: int, hidden_width: int) -> nn.Sequential:
    """Build two linear layers with a GELU between."""
    return named(
        fc1=nn.Linear(width, hidden_width), act=nn.GELU(), fc2=nn.Linear(hidden_width, width)
    )


def is_plain_linear(layer: nn.Module) -> bool:
    """Return whether a call of the layer is x W^T + b and nothing else, so W and b may be read.

    False for a subclass, such as a LoRA layer; for a quantized weight; and for a layer with hooks
    or another `forward`, as of pruning or offloading.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> is_plain_linear(layer)
        True
        >>> _ = layer.register_forward_hook(print)
        >>> is_plain_linear(layer)
        False
    """
    if type(layer) is not nn.Linear or type(layer.weight) not in (nn.Parameter, Tensor):
        return False
    # torch's own names: it has no public function that tells whether a module has hooks.
    is_hooked = (
        layer._forward_pre_hooks
        or layer._forward_hooks
        or layer._backward_pre_hooks
        or layer._backward_hooks
        or torch.nn.modules.module._has_any_global_hook()
    )
    return not is_hooked and "forward" not in layer.__dict__ and layer.bias is not None


class PReLU(nn.PReLU):
    """``nn.PReLU`` with a faster backward pass on a processor; see :class:`_PReLUFunction`.

    Example:
        >>> PReLU(2)(torch.tensor([[-1.0, 1.0]])).tolist()
        [[-0.25, 1.0]]
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return max(0, x) + a min(0, x), with a slope a for each channel."""
        if features.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            output: Tensor = _PReLUFunction.apply(features, self.weight.to(features.dtype))
            return output
        return super().forward(features)


class _PReLUFunction(torch.autograd.Function):
    """PReLU whose gradients are vectorized operations; torch's kernel for them is not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, slope: Tensor) -> Tensor:
        return F.prelu(features, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        features, slope = ctx.saved_tensors
        above = torch.ops.aten.threshold_backward(gradient, features, 0)
        below = gradient - above
        places = range(2, features.ndim)
        of_slope = (below * features).sum([0, *places])
        return above.addcmul_(below, slope.view(-1, *(1 for _ in places))), of_slope

    @staticmethod
    def jvp(ctx: Any, of_features: Tensor, of_slope: Tensor) -> Tensor:
        features, slope = ctx.saved_tensors
        shape = (-1, *(1 for _ in range(2, features.ndim)))
        below = of_features * slope.view(shape) + features * of_slope.view(shape)
        return torch.where(features > 0, of_features, below)


class HalvingConv(nn.Conv2d):
    """3 x 3 convolution of stride 2; on a processor as one matrix product.

    The product is faster for many channels on a small map.

    Args:
        inputs: input channels.
        outputs: output channels.

    Shape:
        - features: (B, inputs, H, W) floating; returns (B, outputs, H / 2, W / 2), rounded up.

    Example:
        >>> HalvingConv(4, 6)(torch.randn(2, 4, 8, 7)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, 2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the halved map."""
        if torch.compiler.is_compiling() or not features.is_cpu:
            return super().forward(features)
        rows = F.pad(features, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        patches, weight = rows.unfold(1, 3, 2).unfold(2, 3, 2), self.weight
        is_small = patches.shape[:3].numel() < self.out_channels
        if not (is_small and weight.is_contiguous()):  # Reordering the smaller one is cheaper.
            patches, weight = patches.movedim(3, -1), weight.movedim(1, -1)
        return F.linear(patches.flatten(3), weight.flatten(1), self.bias).permute(0, 3, 1, 2)


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
