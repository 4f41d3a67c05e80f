"""Image transforms of section 4.2.1, by torchvision."""

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

# Of ImageNet, as the pre-trained encoders of timm and torchvision expect.
MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)

ROTATION_DEGREES = 15.0
COLOR_CHANGE = 0.3  # of brightness, contrast and saturation
NOISE_DEVIATION = 0.03  # of values in [0, 1]


def train_transform(
    size: int = 224, strength: float = 1.0, resize: int | None = None
) -> v2.Transform:
    """Return the training transform: random rotation, crop, flip, colour jitter and noise.

    Args:
        size: height and width of the result.
        strength: in [0, 2]; scales rotation, colour jitter and noise. 0: only resizing, the random
            crop and normalisation.
        resize: height and width before the crop. None: the paper's 256 for 224, and in proportion
            for other sizes (72 for 64).

    Shape:
        (3, H, W) uint8 to (3, size, size) float32.

    Raises:
        ValueError: if a size is less than 1, `resize` is less than `size`, or `strength` is out
            of range.

    Differs from paper: the paper names the steps but not their magnitudes; those at strength 1 are
    ours. The crop comes before colours and noise, which is equivalent and faster.
    """
    if not 0.0 <= strength <= 2.0:
        raise ValueError(f"`strength` must lie in [0, 2]; got {strength}")
    before = _size_before_crop(size, resize)
    steps: list[v2.Transform] = [_resize(before)]
    if strength > 0:
        degrees = ROTATION_DEGREES * strength
        steps.append(v2.RandomRotation(degrees, InterpolationMode.BILINEAR))
    steps.append(v2.RandomCrop(size))
    if strength > 0:
        change = COLOR_CHANGE * strength
        steps.append(v2.RandomHorizontalFlip())
        steps.append(v2.ColorJitter(brightness=change, contrast=change, saturation=change))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if strength > 0:
        steps.append(v2.GaussianNoise(sigma=NOISE_DEVIATION * strength))
    return v2.Compose([*steps, v2.Normalize(MEAN, STANDARD_DEVIATION)])


def eval_transform(size: int = 224, resize: int | None = None) -> v2.Transform:
    """Return the evaluation transform: resize, centre crop and normalise, at the training scale.

    Args:
        size: height and width of the result.
        resize: height and width before the crop, as in :func:`train_transform`.

    Shape:
        (3, H, W) uint8 to (3, size, size) float32.

    Raises:
        ValueError: if a size is less than 1, or `resize` is less than `size`.
    """
    return v2.Compose(
        [
            _resize(_size_before_crop(size, resize)),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STANDARD_DEVIATION),
        ]
    )


def _size_before_crop(size: int, resize: int | None) -> int:
    if size < 1:
        raise ValueError(f"`size` must be at least 1; got {size}")
    if resize is None:
        return max(size, 8 * round(size / 7))
    if resize < size:
        raise ValueError(f"`resize` must be at least `size` = {size}; got {resize}")
    return resize


def _resize(size: int) -> v2.Transform:
    return v2.Resize((size, size), InterpolationMode.BILINEAR, antialias=True)
