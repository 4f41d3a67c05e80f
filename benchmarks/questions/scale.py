"""What do the targets cost with many classes and samples, in time and in memory?

The data are simulated: random predictions and labels, no training. Times are processor time of one
thread. A step of the targets is compared with forward and backward pass of a linear head of the
same batch (256 samples of 512 dimensions), both in turn. Memory is the growth of the resident
memory of a fresh process, at its peak. Parts that are run again replace their figures.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import typer

from benchmarks.cost.machine import in_fresh_process
from benchmarks.cost.paired import alternate, exponent, ratio, single
from benchmarks.cost.parts import Finding
from benchmarks.cost.ranks import BATCH as RANK_BATCH
from benchmarks.cost.ranks import steps_of_ranks
from benchmarks.cost.recording import measure_parts
from benchmarks.cost.targets import BATCH, fill_and_rank, fill_and_step, linear_head, stepper
from benchmarks.options import RESULTS, RenderOnly, Results, one_of
from benchmarks.reports.costs import report
from benchmarks.runs import publish

TITLE = "Many classes and samples"
INTRODUCTION = (
    "By `python -m benchmarks scale`. Processor time of one thread on simulated data; ms: of a "
    "step of the targets, the fastest. In bold: above what was asked for."
)
ROUNDS = 15
CLASSES = (10, 100, 1000, 5000)
GROWTH = {
    "samples": [(size, BATCH, 1000) for size in (10_000, 100_000, 1_000_000)],
    "batch": [(10_000, batch, 1000) for batch in (64, 256, 1024)],
    "classes": [(10_000, BATCH, classes) for classes in (500, 2000, 8000)],
}
# Number of samples and classes, and the most memory asked for, in MiB.
STATES = [(1_280_000, 1000, 1024), (14_000_000, 21_841, 4096)]
RANKED = (1_280_000, 1000)
LONGEST, LARGEST = 120.0, 2048  # seconds and MiB of the ranking


def main(
    part: Annotated[
        list[str] | None, one_of(("step", "growth", "memory", "ranking", "ranks"))
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, as a smoke test.")] = False,
    seed: int = 0,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Measure all parts, or the chosen ones."""
    path = results / "scale.json"
    if not render_only:
        measure_parts({name: PARTS[name] for name in part or PARTS}, path, quick, seed)
    print(publish(path, None, partial(report, title=TITLE, introduction=INTRODUCTION)))


def step(quick: bool) -> Iterator[Finding]:
    """A step of the targets against forward and backward pass of a linear head."""
    for classes in CLASSES[:2] if quick else CLASSES:
        head, targets = linear_head(classes), stepper(10_000, BATCH, classes)
        seconds = alternate({"head": head, "targets": targets}, 2 if quick else ROUNDS)
        yield Finding(
            "step of the targets / linear head",
            f"{classes:,} classes",
            ratio(seconds["targets"], seconds["head"]),
            1e3 * min(seconds["targets"]),
            limit=1.5 if classes >= 1000 else None,
        )


def growth(quick: bool) -> Iterator[Finding]:
    """Exponent b of the time of a step, which grows as size^b."""
    for name, sizes in GROWTH.items():
        steps = {str(size): stepper(*size) for size in (sizes[:2] if quick else sizes)}
        seconds = alternate(steps, 2 if quick else ROUNDS)
        axis = next(i for i in range(3) if sizes[0][i] != sizes[1][i])
        yield Finding(
            f"exponent in {name}",
            " to ".join(f"{size[axis]:,}" for size in (sizes[0], sizes[len(steps) - 1])),
            exponent([size[axis] for size in sizes[: len(steps)]], list(seconds.values())),
            limit=1.1,
        )


def memory(quick: bool) -> Iterator[Finding]:
    """Peak resident memory of targets and labels, filled, and five steps of 256 samples."""
    for samples, classes, limit in [(10_000, 100, None)] if quick else STATES:
        mib, _ = in_fresh_process(partial(fill_and_step, samples, classes))
        yield Finding("MiB", f"{samples:,} x {classes:,}", single(mib), limit=limit)


def ranking(quick: bool) -> Iterator[Finding]:
    """`rank_labels` of all samples."""
    samples, classes = (2000, 100) if quick else RANKED
    mib, seconds = in_fresh_process(partial(fill_and_rank, samples, classes))
    setup = f"{samples:,} x {classes:,}"
    yield Finding("seconds", setup, single(seconds), limit=LONGEST)
    yield Finding("MiB, with targets and labels", setup, single(mib), limit=LARGEST)


def ranks(quick: bool) -> Iterator[Finding]:
    """A step of 128 samples on each of 1, 2 or 4 ranks (gloo), which store the samples of all."""
    for classes in (100,) if quick else (10, 100, 1000, 5000):
        found = steps_of_ranks((1, 2, 4), classes, 3 if quick else 60)
        setup = f"{classes:,} classes"
        for more, fewer, limit in ((2, 1, None), (4, 2, 1.1)):
            yield Finding(
                f"step on {more} ranks / on {fewer}",
                setup,
                ratio(found[more].seconds, found[fewer].seconds),
                1e3 * min(found[more].seconds),
                limit,
            )
        yield Finding("collectives in a step", setup, single(found[4].collectives), limit=3)
        yield Finding("kB sent", setup, single(found[4].sent / 1000))
        probabilities = 4 * RANK_BATCH * classes / 1000
        yield Finding("kB of its probabilities", setup, single(probabilities))


PARTS: dict[str, Callable[[bool], Iterator[Finding]]] = {
    "step": step,
    "growth": growth,
    "memory": memory,
    "ranking": ranking,
    "ranks": ranks,
}
