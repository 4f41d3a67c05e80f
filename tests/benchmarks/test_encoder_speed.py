"""The published arrangement of POSTER++ is the oracle of ours: in outputs, gradients and memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision", reason="the benchmark shares parts with the overhead's")
pytest.importorskip("pytorch_metric_learning", reason="as above")

from benchmarks.cost.machine import peak_allocated
from benchmarks.cost.published_encoder import as_published
from benchmarks.questions.encoder_speed import compare, predict, train
from reliability_balance.backbones import poster_v2_small, poster_v2_tiny
from reliability_balance.backbones.poster_v2 import PosterV2, PosterV2Config


def with_windows() -> PosterV2:
    config = PosterV2Config(
        image_size=64,
        widths=(8, 16, 32),
        heads=(1, 2, 4),
        windows_per_side=2,
        image_units=(1, 1, 1),
        landmark_width=8,
        landmark_units=(1, 1, 1),
        token_width=32,
        token_heads=2,
        layer_scale=0.1,
        drop_path=0.3,
    )
    return PosterV2(config, train_landmarks=True)


BUILDS: dict[str, Callable[[], PosterV2]] = {
    "small": lambda: poster_v2_small(image_size=32),
    "tiny": poster_v2_tiny,
    "windows": with_windows,
}


def training_step(model: PosterV2, images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)  # of drop path
    embedding = model.train()(images)
    embedding.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"embedding": embedding.detach(), **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_the_same_training_step_as_published(build: Callable[[], PosterV2]) -> None:
    torch.manual_seed(0)
    ours = build().double()
    with torch.no_grad():
        for attention in (ours.attn1, ours.attn2, ours.attn3):
            attention.relative_position_bias_table.normal_()
    published = as_published(ours)
    size = ours.config.image_size
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    steps = [training_step(model, images) for model in (ours, published)]
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_the_same_prediction_as_published(build: Callable[[], PosterV2]) -> None:
    torch.manual_seed(0)
    ours = build().eval()
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        expected = as_published(ours)(images)
        assert (ours(images) - expected).abs().max() < 2e-6 * expected.abs().max()


def test_the_published_maps_are_channels_first() -> None:
    published = as_published(poster_v2_tiny(image_size=32))
    maps: list[Tensor] = []
    for unit in published.ir_back.body1:  # called one by one
        unit.register_forward_hook(lambda *call: maps.append(call[-1]))
    published(torch.randn(2, 3, 32, 32))
    assert maps
    assert all(each.is_contiguous() for each in maps)


@pytest.mark.parametrize(("work", "share"), [(train, 1.0), (predict, 0.6)])
def test_less_memory_than_published(work: Callable[..., None], share: float) -> None:
    ours = poster_v2_tiny()
    images = torch.randn(16, 3, 64, 64)
    peak, published = (
        peak_allocated(lambda model=model: work(model, images))
        for model in (ours, as_published(ours))
    )
    assert peak < share * published


def test_the_benchmark_compares_time_and_memory() -> None:
    findings = list(compare(lambda: poster_v2_tiny(image_size=32), 4, quick=True))
    assert len(findings) == 9
    assert all(finding.estimate.value > 0 for finding in findings)
