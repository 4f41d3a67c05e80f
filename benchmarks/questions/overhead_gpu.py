"""What do the heads cost in training steps of a ResNet-18 on a GPU, bound by kernel launches?

With a small encoder, a fast GPU waits for kernel launches, and the heads launch many small kernels.
The robust recipe as it is, compiled, and as CUDA graphs is timed beside a linear head, in two
precisions.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.cost.gpu_heads import PlainHead, RobustHead
from benchmarks.cost.heads import Size
from benchmarks.cost.paired import alternate, ratio
from benchmarks.cost.parts import BASE, Finding
from benchmarks.cost.recording import record
from benchmarks.options import RESULTS, Quick, RenderOnly, Results
from benchmarks.reports.costs import RATIOS, report
from benchmarks.runs import publish

Wrapping = Callable[[nn.Module], Any]
as_graphs: Wrapping = partial(torch.compile, mode="reduce-overhead", fullgraph=True)


def as_it_is(module: nn.Module) -> nn.Module:
    """Return the module, not compiled."""
    return module


class Step(NamedTuple):
    """A head on a ResNet-18, and how both are run."""

    head: Callable[[Size], nn.Module]
    of_head: Wrapping = as_it_is
    of_encoder: Wrapping = as_it_is


def main(
    device: Annotated[str, typer.Option(help="cuda, xpu …")] = "cuda",
    quick: Quick = False,
    seed: int = 0,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Measure both parts."""
    torch.set_num_threads(1)
    path = results / "overhead_gpu.json"
    for part in () if render_only else (heads_alone, all_as_graphs):
        torch.manual_seed(seed)
        settings = {
            "device": torch.get_device_module(device).get_device_name(),
            "seed": str(seed),
            "sizes": "quick" if quick else "full",
        }
        findings = part(torch.device(device), quick)
        record(path, part.__name__.replace("_", " "), part.__doc__ or "", findings, settings)
    introduction = f"By `python -m benchmarks overhead_gpu`. {RATIOS}"
    print(
        publish(path, None, partial(report, title="Overhead on a GPU", introduction=introduction))
    )


def heads_alone(device: torch.device, quick: bool) -> Iterator[Finding]:
    """A training step under an encoder that is not compiled, the heads run in several ways."""
    robust = {
        "robust recipe": Step(partial(RobustHead, validate_args=True)),
        "robust recipe, values not checked": Step(RobustHead),
        "robust recipe, compiled": Step(RobustHead, torch.compile),
        "robust recipe, as graphs": Step(RobustHead, as_graphs),
    }
    return compare("linear head", Step(PlainHead), robust, device, quick)


def all_as_graphs(device: torch.device, quick: bool) -> Iterator[Finding]:
    """A training step with encoder and head compiled to graphs of kernels, on both sides."""
    robust = {"robust recipe": Step(RobustHead, as_graphs, as_graphs)}
    plain = Step(PlainHead, as_graphs, as_graphs)
    return compare("linear head", plain, robust, device, quick)


def compare(
    base: str, base_step: Step, others: dict[str, Step], device: torch.device, quick: bool
) -> Iterator[Finding]:
    """Time each step against the baseline, in two precisions."""
    image_size, batch_size = (32, 8) if quick else (224, 64)
    size = BASE._replace(batch=batch_size)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(size.classes, (batch_size,), device=device)

    def clock() -> float:
        torch.get_device_module(device).synchronize()
        return time.perf_counter()

    for dtype in (torch.float32, torch.bfloat16):
        calls = {
            name: _training(step, size, images, labels, dtype)
            for name, step in {base: base_step, **others}.items()
        }
        seconds = alternate(calls, 2 if quick else 21, clock)
        for name in others:
            yield Finding(
                f"{name} / {base}",
                f"{size}, {image_size} px, {dtype}".replace("torch.", ""),
                ratio(seconds[name], seconds[base]),
                1000 * statistics.median(seconds[name]),
                1.05,
            )


def _training(
    step: Step, size: Size, images: Tensor, labels: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    encoder, head = resnet18(), step.head(size).to(images.device)
    encoder.fc = nn.Identity()
    encoder.to(images.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], fused=True)
    encode, loss_of = step.of_encoder(encoder), step.of_head(head)
    half = dtype != torch.float32

    def run() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(images.device.type, dtype, enabled=half):
            loss = loss_of(encode(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run
