"""What our recipes add to a training step and to a prediction of a ResNet-18.

    python benchmarks/training_cost.py --batch-size 64

Plain and wrapped steps alternate in one process, so that whatever else the machine does falls on
both; the median of each is compared.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import torch
import typer
from result_files import save_json
from torch.nn import functional as F
from torchvision.models import resnet18

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.mixing import mix
from reliability_balance.targets import RefurbishedTargets

RESULTS = Path(__file__).parent / "results"
NUM_CLASSES, NUM_SAMPLES = 7, 10_000


def main(
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    image_size: Annotated[int, typer.Option(min=32)] = 224,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Time both kinds of step and write `training_cost.json`."""
    torch.manual_seed(0)
    plain = resnet18(num_classes=NUM_CLASSES).to(device)
    wrapped = wrap(resnet18(num_classes=NUM_CLASSES)).to(device)
    criterion = ReliabilityLoss()
    targets = RefurbishedTargets(NUM_SAMPLES, NUM_CLASSES, warmup=0).to(device)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=device)
    index = torch.arange(batch_size, device=device)
    used = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizers = [torch.optim.AdamW(plain.parameters()), torch.optim.AdamW(used)]

    def plain_step() -> None:
        _step(optimizers[0], F.cross_entropy(plain(images), labels))

    def wrapped_step() -> None:
        output = wrapped(images)
        soft = targets(index, labels, output.corrected)
        mixed = mix(wrapped.balancer, output.embedding, soft)
        _step(optimizers[1], criterion(mixed.output, mixed.targets).total)

    steps = _alternate(plain_step, wrapped_step, repeats, device)
    plain.eval()
    wrapped.eval()
    with torch.no_grad():
        calls = _alternate(lambda: plain(images), lambda: wrapped(images), repeats, device)
    report = {
        "model": f"resnet18, batch {batch_size} of {image_size} px",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "torch": torch.__version__,
        "repeats": repeats,
        "plain_step_ms": round(1000 * steps[0], 1),
        "wrapped_step_ms": round(1000 * steps[1], 1),
        "extra_training_percent": round(100 * (steps[1] / steps[0] - 1), 2),
        "plain_prediction_ms": round(1000 * calls[0], 1),
        "wrapped_prediction_ms": round(1000 * calls[1], 1),
        "extra_prediction_percent": round(100 * (calls[1] / calls[0] - 1), 2),
    }
    print(json.dumps(report, indent=2))
    save_json(results / "training_cost.json", report)


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _alternate(
    first: Callable[[], object], second: Callable[[], object], repeats: int, device: str
) -> tuple[float, float]:
    """Median seconds of each, after one call to warm up."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for call, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return median(times[0][1:]), median(times[1][1:])


if __name__ == "__main__":
    typer.run(main)
