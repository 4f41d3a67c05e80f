"""The transforms: shapes, strength, and what evaluation must not do."""

import pytest
import torch
from torch import Tensor

from examples.arbex.faces.augmentation import (
    MEAN,
    STANDARD_DEVIATION,
    eval_transform,
    train_transform,
)


@pytest.fixture
def image() -> Tensor:
    return torch.randint(0, 256, (3, 90, 70), dtype=torch.uint8, generator=torch.Generator())


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_any_image_becomes_a_square_of_floats(image, size, strength):
    for result in (train_transform(size, strength)(image), eval_transform(size)(image)):
        assert result.shape == (3, size, size)
        assert result.dtype == torch.float32
        assert bool(torch.isfinite(result).all())


def test_the_papers_sizes_are_the_default(image):
    assert train_transform().transforms[0].size == [256, 256]
    assert eval_transform(64).transforms[0].size == [72, 72]


def test_evaluation_takes_the_middle_without_chance(image):
    image = torch.arange(72, dtype=torch.uint8).expand(3, 72, 72)
    result = eval_transform(64)(image)
    assert torch.equal(result, eval_transform(64)(image))
    mean, deviation = torch.tensor(MEAN), torch.tensor(STANDARD_DEVIATION)
    expected = (torch.arange(4.0, 68.0) / 255 - mean[:, None]) / deviation[:, None]
    torch.testing.assert_close(result[:, 0], expected)


def test_no_strength_still_crops_at_random_but_keeps_every_value():
    image = torch.arange(72, dtype=torch.uint8).expand(3, 72, 72)
    transform = train_transform(64, 0.0)
    starts = set()
    for _ in range(40):
        row = transform(image)[0, 0] * STANDARD_DEVIATION[0] + MEAN[0]
        values = (row * 255).round().int().tolist()
        assert values == list(range(values[0], values[0] + 64))
        starts.add(values[0])
    assert len(starts) > 4


def test_more_strength_changes_more(image):
    gray = torch.full((3, 72, 72), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    spread = [
        torch.stack([train_transform(64, s)(gray).mean() for _ in range(40)]).std()
        for s in (0.0, 0.5, 2.0)
    ]
    assert spread[0] < 1e-6 < spread[1] < spread[2]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`strength` must lie in \[0, 2\]; got 2.5"):
        train_transform(64, 2.5)
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        eval_transform(0)
    with pytest.raises(ValueError, match="`resize` must be at least `size` = 64; got 32"):
        train_transform(64, resize=32)
