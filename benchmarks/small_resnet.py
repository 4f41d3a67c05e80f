"""A small residual network for images of about 48 pixels, which trains on a CPU."""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            if stride > 1 or width_in != width
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return shortcut plus residual."""
        inner = F.relu(self.first_norm(self.first(features)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(features))


def small_resnet(
    channels: int, num_classes: int, widths: tuple[int, ...] = (24, 48, 96)
) -> nn.Sequential:
    """Build a stem of stride 2, one block per width, average pooling and a linear layer."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    before = widths[0]
    for place, width in enumerate(widths):
        layers.append(Block(before, width, 1 if place == 0 else 2))
        before = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    return nn.Sequential(*layers)
