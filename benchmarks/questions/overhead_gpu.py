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
from torch.nn import functional as F
from torchvision.models import resnet18

from benchmarks.cost.heads import Size
from benchmarks.cost.paired import alternate, ratio
from benchmarks.cost.parts import BASE, Finding
from benchmarks.options import RESULTS, RenderOnly, Results
from benchmarks.questions.overhead import record, report
from benchmarks.runs import publish
from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance.core import get_recipe, log_frequencies
from reliability_balance.labels import RefurbishedTargets, mix

Wrapping = Callable[[nn.Module], Any]
as_graphs: Wrapping = partial(torch.compile, mode="reduce-overhead", fullgraph=True)


def as_it_is(module: nn.Module) -> nn.Module:
    """Return the module, not compiled."""
    return module


class PlainHead(nn.Module):
    """A linear head and cross-entropy."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.linear = nn.Linear(size.dim, size.classes)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.linear(embedding), labels)


class RobustHead(nn.Module):
    """The robust recipe: balancer, targets, class frequencies, mixing and losses.

    Assembled here, since `RobustLoss` counts its samples, which a CUDA graph cannot do.
    """

    prior: Tensor
    index: Tensor

    def __init__(self, size: Size, validate_args: bool = False) -> None:
        super().__init__()
        self.balancer = ReliabilityBalancer(
            size.dim,
            size.classes,
            num_anchors=size.anchors,
            validate_args=validate_args,
        )
        self.targets = RefurbishedTargets(10_000, size.classes, validate_args=validate_args)
        self.criterion = ReliabilityLoss(validate_args=validate_args)
        concentration = get_recipe("robust").mixing
        assert concentration is not None  # for the type checker: the robust recipe mixes
        self.concentration = concentration
        self.register_buffer("prior", torch.full((size.classes,), 1.0 / size.classes))
        self.register_buffer("index", torch.arange(size.batch))

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        output = self.balancer(embedding)
        beliefs = (output.log_probs + log_frequencies(self.prior)).softmax(-1)
        soft = self.targets(self.index, labels, beliefs)
        mixed = mix(self.balancer, output, soft, concentration=self.concentration)
        loss: Tensor = self.criterion(*mixed, class_prior=self.prior).total
        return loss


class Step(NamedTuple):
    """A head on a ResNet-18, and how both are run."""

    head: Callable[[Size], nn.Module]
    of_head: Wrapping = as_it_is
    of_encoder: Wrapping = as_it_is


def main(
    device: Annotated[str, typer.Option(help="cuda, xpu …")] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, as a smoke test.")] = False,
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
    print(publish(path, None, partial(report, question="overhead_gpu")))


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
