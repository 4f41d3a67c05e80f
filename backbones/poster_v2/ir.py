"""The image branch: an improved residual network, such as the first three stages of IR50."""

from torch import Tensor, nn

from reliability_balance.backbones.poster_v2.layers import PReLU
from reliability_balance.backbones.poster_v2.recompute import run_segment


class IRUnit(nn.Module):
    """Improved residual unit: norm, convolution, PReLU, strided convolution, norm.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: of the second convolution and of the shortcut.

    Shape:
        - features: (B, inputs, H, W) floating; returns (B, outputs, H / stride, W / stride).

    Reference: Deng et al., ArcFace, 2019.

    Example:
        >>> import torch
        >>> IRUnit(4, 8, stride=2)(torch.randn(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = (
            Subsample(stride)
            if inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return shortcut plus residual."""
        output: Tensor = self.res_layer(features) + self.shortcut_layer(features)
        return output


class Subsample(nn.Module):
    """Keep the first of every `stride` rows and columns: max pooling with a kernel of 1."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Return every `stride`-th position of a (B, C, H, W) map."""
        # Sliced channels-last, so that the gradient is channels-last, too.
        rows = features.permute(0, 2, 3, 1)
        return rows[:, :: self.stride, :: self.stride].permute(0, 3, 1, 2)


class IRBranch(nn.Module):
    """Encoder that gives three maps of an image, each half the size of the one before.

    Args:
        image_channels: channels of the image.
        widths: channels of the three maps.
        units: residual units before each map; (3, 4, 14) are IR50's.
        input_stride: of the first convolution, 1 in IR50.
        recompute: whether to recompute activations in the backward pass, see :func:`run_segment`.

    Shape:
        - images: (B, image_channels, S, S) floating; returns three maps (B, widths[i], S_i, S_i)
          with S_i = S / input_stride / 2, / 4 and / 8.

    Example:
        >>> import torch
        >>> branch = IRBranch(widths=(4, 8, 16), units=(1, 1, 1))
        >>> [tuple(features.shape) for features in branch(torch.randn(1, 3, 16, 16))]
        [(1, 4, 8, 8), (1, 8, 4, 4), (1, 16, 2, 2)]
    """

    def __init__(
        self,
        *,
        image_channels: int = 3,
        widths: tuple[int, int, int] = (64, 128, 256),
        units: tuple[int, int, int] = (3, 4, 14),
        input_stride: int = 1,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.input_layer = nn.Sequential(
            nn.Conv2d(image_channels, widths[0], 3, input_stride, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            PReLU(widths[0]),
        )
        self.body1 = _stage(widths[0], widths[0], units[0])
        self.body2 = _stage(widths[0], widths[1], units[1])
        self.body3 = _stage(widths[1], widths[2], units[2])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps, largest first."""
        features = run_segment(self.input_layer, images, recompute=self.recompute)
        first = self._run(self.body1, features)
        second = self._run(self.body2, first)
        return first, second, self._run(self.body3, second)

    def _run(self, stage: nn.Sequential, features: Tensor) -> Tensor:
        for unit in stage:
            features = run_segment(unit, features, recompute=self.recompute)
        return features


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    """Build a stage, whose first unit halves the map."""
    return nn.Sequential(
        IRUnit(inputs, outputs, stride=2),
        *(IRUnit(outputs, outputs, stride=1) for _ in range(units - 1)),
    )
