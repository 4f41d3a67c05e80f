"""How large and fast are the encoders, and how do they scale?

Parameters, multiply-adds, images per second and peak memory of prediction with three backbones of
the library, a ViT-S/16 and a ResNet-50; and the growth of windowed attention's cost with the number
of windows. Each model runs in its own process, which isolates its peak memory, on one thread; CPU
time is measured, which excludes other load on the machine.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated, Any

import timm
import torch
import torchvision
import typer
from torch import nn

from benchmarks.cost.forward import (
    WINDOW_COUNTS,
    WINDOW_HEADS,
    WINDOW_SIZE,
    WINDOW_WIDTH,
    median_seconds,
    operations,
    window_growth,
)
from benchmarks.cost.machine import PeakMemory, describe_machine
from benchmarks.options import RESULTS, RenderOnly, Results
from benchmarks.runs import publish
from benchmarks.tables import interval, markdown, page
from reliability_balance.backbones import (
    TimmBackbone,
    TorchvisionBackbone,
    poster_v2_base,
    poster_v2_small,
    poster_v2_tiny,
)

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "poster_v2_base": (poster_v2_base, 224),
    "poster_v2_small": (poster_v2_small, 112),
    "poster_v2_tiny": (poster_v2_tiny, 64),
    "timm ViT-S/16": (lambda: TimmBackbone("vit_small_patch16_224"), 224),
    "torchvision ResNet-50": (lambda: TorchvisionBackbone("resnet50"), 224),
}
BATCH_SIZES = (1, 32)


def measure(name: str, batch_size: int, seed: int, seconds: float) -> dict[str, Any]:
    """Measure a model on one thread; call this in a fresh process."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    build, image_size = MODELS[name]
    model = build().eval()
    images = torch.randn(batch_size, 3, image_size, image_size)

    def predict() -> None:
        with torch.inference_mode():
            model(images)

    with PeakMemory() as peak:  # first, before the allocator has memory to reuse
        predict()
    return {
        "model": name,
        "image_size": image_size,
        "batch_size": batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "giga_multiply_adds": operations(model, images[:1]) / 2e9,  # per image, forward
        "images_per_second": batch_size / median_seconds(predict, seconds),
        "peak_mib": peak.mib,
    }


def report(content: dict[str, Any]) -> str:
    """Format costs and growth."""
    machine = ", ".join(f"{key} {value}" for key, value in content["machine"].items())
    rows = [
        [
            *(cost["model"], cost["image_size"], cost["batch_size"]),
            f"{cost['parameters'] / 1e6:.1f}",
            f"{cost['giga_multiply_adds']:.3f}",
            f"{cost['images_per_second']:.1f}",
            "-" if cost["peak_mib"] is None else f"{cost['peak_mib']:.0f}",
        ]
        for cost in content["costs"]
    ]
    heads = ("model", "image", "batch", "M parameters", "G multiply-adds", "images/s", "peak MiB")
    exponents = [
        [each["quantity"], f"{each['exponent']:.3f}", f"{each['low']:.3f} to {each['high']:.3f}"]
        for each in content["window_growth"]
    ]
    return page(
        "Backbones",
        f"`python -m benchmarks backbones`; {machine}",
        "G multiply-adds: of one image, forward, by torch's counter (half its FLOPs). Images/s: "
        "median, of one thread's processor time. Peak: resident memory of the process above what "
        "it had with the model built, during the first call, so that it includes what libraries "
        "set up.",
        markdown(heads, rows),
        f"W-MCSA, windows of {WINDOW_SIZE} x {WINDOW_SIZE}, {WINDOW_WIDTH} channels, "
        f"{WINDOW_HEADS} heads, {', '.join(map(str, WINDOW_COUNTS))} windows: exponent b of "
        "cost = a windows^b (1 is linear).",
        markdown(["cost", "exponent", "95 % interval"], exponents),
    )


def main(
    seconds: Annotated[float, typer.Option(min=0, help="Time for each rate.")] = 2.0,
    repetitions: Annotated[int, typer.Option(min=2, help="Fits over the windows.")] = 5,
    seed: int = 0,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Measure all backbones and two reference models."""
    content = None if render_only else measured(seconds, repetitions, seed)
    print(publish(results / "backbones.json", content, report))


def measured(seconds: float, repetitions: int, seed: int) -> dict[str, Any]:
    """Return the costs of all models, and the growth."""
    machine = {
        **describe_machine(),
        "timm": timm.__version__,
        "torchvision": torchvision.__version__,
        "seed": str(seed),
    }
    costs = []
    for name in MODELS:
        for batch_size in BATCH_SIZES:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                costs.append(pool.submit(measure, name, batch_size, seed, seconds).result())
            print(costs[-1], flush=True)
    growth = []
    for quantity, exponents in window_growth(seed, repetitions).items():
        mean, half = interval(exponents)
        margin = 0.0 if len(exponents) == 1 else half
        limits = {"low": mean - margin, "high": mean + margin}
        growth.append({"quantity": quantity, "exponent": mean, **limits})
    return {"machine": machine, "costs": costs, "window_growth": growth}
