"""The parts of `overhead.py`, each with a few ratios."""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import RandomSampler, TensorDataset
from torchvision.models import resnet18

from benchmarks.cost.heads import (
    Head,
    Size,
    anchor_branch,
    balancer,
    fits_pairwise,
    linear,
    make_batch,
    matmul_softmax,
    pairwise_branch,
    soft_triple,
)
from benchmarks.cost.kernels import TOKENS, kernels_of, robust_step
from benchmarks.cost.machine import peak_allocated
from benchmarks.cost.paired import Estimate, alternate, estimate, exponent, ratio, single
from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss
from reliability_balance import functional as RF
from reliability_balance.core import get_recipe
from reliability_balance.data import DataRefinementSampler

BASE = Size(64, 512, 7, 8)
GRID = [
    BASE,
    *(BASE._replace(batch=batch) for batch in (1, 256, 4096)),
    *(BASE._replace(dim=dim) for dim in (128, 2048)),
    *(BASE._replace(anchors=anchors) for anchors in (1, 20)),
    *(BASE._replace(classes=classes) for classes in (100, 1000, 10_000)),
    Size(4096, 512, 1000, 8),
    Size(1024, 128, 1000, 20),
]
SMALL_SET, SMALL_BATCH = 10_000, 128
LARGEST = Size(256, 512, 10_000, 8)
GROWTH = {
    "batch": [Size(batch, 512, 100, 8) for batch in (64, 256, 1024, 4096)],
    "classes": [Size(64, 512, classes, 8) for classes in (100, 500, 2000, 10_000)],
    "anchors": [Size(64, 512, 1000, anchors) for anchors in (2, 5, 10, 20)],
}


# Kernels of a step, without and with tokens, in version 0.1.0 before they were counted.
KERNELS_BEFORE = {False: 396, True: 469}
THIRD = 0.333


@dataclass(frozen=True)
class Finding:
    """One ratio; `limit` is its target."""

    question: str
    setup: str
    estimate: Estimate
    milliseconds: float | None = None  # of the numerator
    limit: float | None = None


def heads(quick: bool) -> Iterator[Finding]:
    """The balancer and its losses against a linear head, SoftTriple and the pairwise form."""
    for size in GRID[:1] if quick else GRID:
        batch = make_batch(size)
        ours, branch = balancer(size, batch), anchor_branch(size, batch)
        others = {
            "balancer / linear head": (ours, linear(size, batch)),
            "balancer / SoftTriple": (ours, soft_triple(size, batch)),
        }
        if fits_pairwise(size):
            others["anchors / pairwise form"] = (branch, pairwise_branch(size, batch))
        others["anchors / matmul and softmax"] = (branch, matmul_softmax(size, batch))
        elements = size.batch * size.dim * size.classes * size.anchors
        yield from _compare_heads(others, str(size), 3 if quick else 5 if elements > 2**31 else 15)


def _compare_heads(
    pairs: dict[str, tuple[Head, Head]], setup: str, rounds: int
) -> Iterator[Finding]:
    for kind in ("forward", "step"):
        calls = {
            f"{name} {side}": getattr(head, kind)
            for name, pair in pairs.items()
            for side, head in enumerate(pair)
        }
        seconds = alternate(calls, rounds)
        for name in pairs:
            yield _finding(f"{name}, {kind}", setup, seconds[f"{name} 0"], seconds[f"{name} 1"])


def _finding(
    question: str,
    setup: str,
    numerator: Sequence[float],
    denominator: Sequence[float],
    limit: float | None = None,
) -> Finding:
    milliseconds = 1000 * statistics.median(numerator)
    return Finding(question, setup, ratio(numerator, denominator), milliseconds, limit)


def limits(quick: bool) -> Iterator[Finding]:
    """Distances and similarities against the matrix product, which is a lower bound."""
    size = LARGEST._replace(classes=500) if quick else LARGEST
    embedding = torch.randn(size.batch, size.dim)
    anchors = torch.randn(size.classes, size.anchors, size.dim) * size.dim**-0.5
    flat = anchors.flatten(0, 1).T

    @torch.no_grad()
    def similarities(metric: RF.Metric) -> Tensor:
        distances = RF.anchor_distances(embedding, anchors, metric=metric, validate_args=False)
        return RF.anchor_similarities(distances)

    matrix_bytes = size.batch * size.classes * size.anchors * 4
    for metric in RF.METRICS:
        peak = peak_allocated(partial(similarities, metric)) / matrix_bytes
        yield Finding(
            f"peak memory, {metric} / (B, C K) matrix", str(size), estimate([peak]), None, 3.0
        )

    seconds = alternate(
        {
            "product": lambda: embedding @ flat,
            "product and softmax": lambda: (embedding @ flat).softmax(-1),
            "distances": torch.no_grad()(
                lambda: RF.anchor_distances(embedding, anchors, validate_args=False)
            ),
            **{metric: partial(similarities, metric) for metric in RF.METRICS},
        },
        3 if quick else 15,
    )
    for metric in RF.METRICS:
        yield _finding(
            f"distances and similarities, {metric} / matmul and softmax",
            str(size),
            seconds[metric],
            seconds["product and softmax"],
            1.5,
        )
    yield _finding(
        "share of the matmul's rate, distances", str(size), seconds["product"], seconds["distances"]
    )
    batch = make_batch(size)
    trained = anchors.requires_grad_()
    anchor_loss = Head(lambda: RF.anchor_loss(trained), [trained])
    yield from _compare_heads(
        {
            "anchors / matmul and softmax": (
                anchor_branch(size, batch),
                matmul_softmax(size, batch),
            ),
            "anchor loss / balancer": (anchor_loss, balancer(size, batch)),
        },
        str(size),
        3 if quick else 7,
    )


def small(quick: bool) -> Iterator[Finding]:
    """A training step of a perceptron with RobustLoss against one with cross-entropy."""
    for width in (64,) if quick else (64, 256, 1024):
        for classes in (10,) if quick else (2, 10, 100, 1000):
            steps = _steps_of_a_perceptron(width, classes)
            seconds = alternate(steps, 3 if quick else 7)
            setup = f"perceptron {width}-{2 * width}-{width}-{classes}, batches of {SMALL_BATCH}"
            yield _finding(
                "RobustLoss / cross-entropy", setup, seconds["robust"], seconds["plain"], 5.0
            )


def _steps_of_a_perceptron(width: int, classes: int) -> dict[str, Callable[[], None]]:
    labels = torch.arange(SMALL_SET) % classes
    inputs = torch.randn(SMALL_BATCH, width)
    order = _batches_for_ever()

    def encoder() -> torch.nn.Sequential:
        return torch.nn.Sequential(
            torch.nn.Linear(width, 2 * width),
            torch.nn.ReLU(),
            torch.nn.Linear(2 * width, width),
            torch.nn.ReLU(),
        )

    plain = encoder().append(torch.nn.Linear(width, classes))
    ours, head = encoder(), ReliabilityBalancer(width, classes)
    # Mixing from the first step on, as in most steps of a training.
    recipe = replace(get_recipe("robust"), mix_from=0.0)
    robust = RobustLoss(head, labels, epochs=100, recipe=recipe)
    optimizers = [
        torch.optim.AdamW(parameters, fused=True)
        for parameters in (plain.parameters(), [*ours.parameters(), *head.parameters()])
    ]

    def plain_step() -> None:
        _descend(optimizers[0], F.cross_entropy(plain(inputs), labels[next(order)]))

    def robust_step() -> None:
        index = next(order)
        _descend(optimizers[1], robust(head(ours(inputs)), labels[index], index))

    return {"plain": plain_step, "robust": robust_step}


def _batches_for_ever() -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(SMALL_SET).split(SMALL_BATCH)[:-1]


def growth(quick: bool) -> Iterator[Finding]:
    """Growth of the anchor branch's step with size; 1 is linear."""
    for name, sizes in GROWTH.items():
        sizes = sizes[:2] if quick else sizes
        calls = {str(size): anchor_branch(size, make_batch(size)).step for size in sizes}
        seconds = alternate(calls, 3 if quick else 9)
        values = [float(getattr(size, name)) for size in sizes]
        yield Finding(
            f"exponent of the step in {name}",
            f"{sizes[0]} to {name} {int(values[-1]):,}",
            exponent(values, list(seconds.values())),
        )


def compiled(quick: bool) -> Iterator[Finding]:
    """The whole step under `torch.compile`."""
    for size in GRID[:1] if quick else [BASE, BASE._replace(batch=4096, classes=100)]:
        batch = make_batch(size)
        eager = balancer(size, batch, validate_args=False)
        fast = Head(torch.compile(eager.loss), eager.trained)
        yield from _compare_heads(
            {"compiled / eager": (fast, eager)}, str(size), 3 if quick else 15
        )


def kernels(quick: bool) -> Iterator[Finding]:
    """Kernels that a training step of the robust recipe launches, counted on a processor."""
    for tokens, before in list(KERNELS_BEFORE.items())[: 1 if quick else 2]:
        setup = f"{BASE}, {TOKENS} tokens" if tokens else str(BASE)
        for name, count in kernels_of(robust_step(BASE, tokens=tokens)).items():
            yield Finding(f"{name}, kernels", setup, single(count))
        yield Finding("all / before", setup, single(count / before), limit=THIRD)
        if quick:
            continue  # compiling takes minutes
        count = kernels_of(robust_step(BASE, tokens=tokens, compiled=True))["all"]
        yield Finding("all, kernels, compiled", setup, single(count))
        yield Finding("all, compiled / before", setup, single(count / before), limit=THIRD)


def encoder(quick: bool) -> Iterator[Finding]:
    """The balancer's share of a ResNet-18's training step and prediction."""
    image_size, batch_size = (32, 8) if quick else (224, 64)
    size = BASE._replace(batch=batch_size)
    model = resnet18(num_classes=size.classes)
    images = torch.randn(batch_size, 3, image_size, image_size)
    batch = make_batch(size)
    everything = list(model.parameters())
    optimizer = torch.optim.AdamW(everything)

    def training_step() -> None:
        _descend(optimizer, F.cross_entropy(model(images), batch.labels))

    def predict() -> None:
        with torch.no_grad():
            model(images)

    ours = ReliabilityBalancer(size.dim, size.classes, num_anchors=size.anchors)
    criterion = ReliabilityLoss()
    index = torch.arange(batch_size)
    everyone = torch.cat([batch.labels, torch.randint(size.classes, (10_000 - batch_size,))])
    # Mixing from the first step on, as in most steps of a training.
    mixed = replace(get_recipe("robust"), mix_from=0.0)
    robust = RobustLoss(ours, everyone, epochs=100, recipe=mixed)
    plain = torch.nn.Linear(size.dim, size.classes)
    optimizers = [torch.optim.AdamW(module.parameters()) for module in (ours, plain)]
    anchors = ours.anchors
    assert anchors is not None

    def balancer_step() -> None:
        output = ours(batch.embedding)
        _descend(optimizers[0], criterion(output, batch.labels).total)

    def robust_step() -> None:
        _descend(optimizers[0], robust(ours(batch.embedding), batch.labels, index))

    def plain_step() -> None:
        _descend(optimizers[1], F.cross_entropy(plain(batch.embedding), batch.labels))

    rounds = 2 if quick else 5
    anchor_loss = Head(lambda: RF.anchor_loss(anchors), [anchors])
    seconds = alternate(
        {
            "encoder": training_step,
            "balancer": balancer_step,
            "robust": robust_step,
            "plain": plain_step,
            "anchor loss": anchor_loss.step,
        },
        rounds,
    )
    setup = f"{size}, {image_size} px"
    extra = [one - other for one, other in zip(seconds["robust"], seconds["plain"], strict=True)]
    for name, costs, limit in (
        ("balancer, its losses and AdamW", seconds["balancer"], 0.03),
        ("robust recipe, targets and mixing, less a linear head", extra, 0.05),
        ("anchor loss", seconds["anchor loss"], 0.01),
    ):
        yield _finding(f"{name} / training step", setup, costs, seconds["encoder"], limit)

    model.eval()
    ours.eval()

    def correct() -> None:
        with torch.no_grad():
            ours(batch.embedding)

    seconds = alternate({"encoder": predict, "balancer": correct}, rounds)
    yield _finding("balancer / prediction", setup, seconds["balancer"], seconds["encoder"], 0.02)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def sampler(quick: bool) -> Iterator[Finding]:
    """An epoch of data refinement against one of torch's random sampler."""
    rows = 30_000 if quick else 3_000_000
    ours = DataRefinementSampler(torch.randint(8, (rows,)), torch.randint(600, (rows,)))
    torchs = RandomSampler(TensorDataset(torch.empty(rows)))

    def epoch() -> None:
        ours.set_epoch(ours.epoch + 1)
        list(ours)

    seconds = alternate({"ours": epoch, "torch's": lambda: list(torchs)}, 3 if quick else 9)
    setup = f"{rows:,} rows, 600 groups, 8 classes"
    yield _finding("epoch / RandomSampler's", setup, seconds["ours"], seconds["torch's"])


def start(quick: bool) -> Iterator[Finding]:
    """A new interpreter that imports the library against one that imports torch."""
    rounds = 2 if quick else 9
    costs: dict[str, list[float]] = {"torch": [], "reliability_balance": []}
    for _ in range(rounds):
        for module, seconds in costs.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=os.environ)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    yield _finding(
        "import / torch's", "fresh interpreter", costs["reliability_balance"], costs["torch"]
    )


PARTS: dict[str, Callable[[bool], Iterator[Finding]]] = {
    part.__name__: part
    for part in (start, limits, kernels, encoder, small, heads, growth, compiled, sampler)
}
