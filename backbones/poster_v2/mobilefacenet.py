"""The landmark branch: MobileFaceNet, a facial landmark network."""

from typing import Protocol

from torch import Tensor, nn

from reliability_balance.backbones.poster_v2.layers import PReLU, named


class LandmarkBranch(Protocol):
    """Interface of a landmark branch: a module that gives three feature maps.

    ``widths`` are the channels of the maps. The first two must be those of the encoder; the third
    is free. A map larger than a window of its scale is average-pooled to that size.
    """

    widths: tuple[int, int, int]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps of (B, C, S, S) images, largest first."""
        ...


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    """Build convolution and batch norm; only the stride changes the size."""
    return named(
        conv=nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        ),
        bn=nn.BatchNorm2d(outputs),
    )


def conv_block(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Build convolution, batch norm and PReLU."""
    block = conv_norm(inputs, outputs, kernel, stride, groups)
    block.add_module("prelu", PReLU(outputs))
    return block


class Bottleneck(nn.Module):
    """Inverted residual: expand, depthwise convolution, project; residual if sizes are equal.

    Args:
        inputs: input channels.
        outputs: output channels.
        hidden: channels between.
        stride: of the convolution; the unit is residual only with 1.

    Shape:
        - features: (B, inputs, H, W) floating; returns (B, outputs, H / stride, W / stride).

    Reference: Sandler et al., MobileNetV2, 2018.

    Example:
        >>> import torch
        >>> Bottleneck(4, 8, hidden=16, stride=2)(torch.randn(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int, stride: int) -> None:
        super().__init__()
        self.conv = conv_block(inputs, hidden)
        self.conv_dw = conv_block(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = conv_norm(hidden, outputs, kernel=1, stride=1, groups=1)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Return the output map."""
        output: Tensor = self.project(self.conv_dw(self.conv(features)))
        return features + output if self.is_residual else output


class MobileFaceNet(nn.Module):
    """MobileFaceNet encoder: landmark features at strides 4, 8 and 16.

    Args:
        image_channels: channels of the image.
        width: channels of the first map; the others have 2 and 8 times as many. 64 in the published
            network.
        units: residual units at the three scales; (4, 6, 2) in the published network.

    Shape:
        - images: (B, image_channels, S, S) floating; returns (B, width, S/4, S/4),
          (B, 2 width, S/8, S/8), (B, 8 width, S/16, S/16).

    Reference: Chen et al., MobileFaceNets, 2018.

    Example:
        >>> import torch
        >>> branch = MobileFaceNet(width=4, units=(1, 1, 1)).eval()
        >>> [tuple(features.shape) for features in branch(torch.randn(1, 3, 32, 32))]
        [(1, 4, 8, 8), (1, 8, 4, 4), (1, 32, 2, 2)]
    """

    def __init__(
        self,
        *,
        image_channels: int = 3,
        width: int = 64,
        units: tuple[int, int, int] = (4, 6, 2),
    ) -> None:
        super().__init__()
        wide = 2 * width
        self.widths = (width, wide, 8 * width)
        self.conv1 = conv_block(image_channels, width, kernel=3, stride=2)
        self.conv2_dw = conv_block(width, width, kernel=3, groups=width)
        self.conv_23 = Bottleneck(width, width, hidden=2 * width, stride=2)
        self.conv_3 = _residuals(width, units[0])
        self.conv_34 = Bottleneck(width, wide, hidden=2 * wide, stride=2)
        self.conv_4 = _residuals(wide, units[1])
        self.conv_45 = Bottleneck(wide, wide, hidden=4 * wide, stride=2)
        self.conv_5 = _residuals(wide, units[2])
        self.conv_6_sep = conv_block(wide, 8 * width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps, largest first."""
        first: Tensor = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(images))))
        second: Tensor = self.conv_4(self.conv_34(first))
        third: Tensor = self.conv_6_sep(self.conv_5(self.conv_45(second)))
        return first, second, third


def _residuals(width: int, units: int) -> nn.Sequential:
    blocks = (Bottleneck(width, width, hidden=2 * width, stride=1) for _ in range(units))
    return named(model=nn.Sequential(*blocks))
