"""Do the ablations of the paper's Tables 1-4 show the same pattern here?

Number of anchors, label noise, label smoothing and the weight of the anchor loss, with the paper's
recipe behind a small perceptron, on Fashion-MNIST and rendered faces. The paper's data cannot be
redistributed, so absolute figures cannot agree; each claim's trend in accuracy is tested.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.data.corruptions import symmetric
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.measures import prediction_measures
from benchmarks.methods.base import predict
from benchmarks.methods.ours import Ours
from benchmarks.options import Epochs, Quick, Seeds, one_of
from benchmarks.reports.paper_tables import (
    PAPER_BY_ANCHORS,
    PAPER_BY_FACTOR,
    PAPER_BY_NOISE,
    PAPER_BY_SMOOTHING,
    report,
)
from benchmarks.runs import Plan
from benchmarks.training import trained
from reliability_balance.core import get_recipe

PAPER = get_recipe("paper")


class Setup(NamedTuple):
    """One cell of a table. Noise and smoothing in percent, as the paper prints them."""

    num_anchors: int = 8
    noise: int = 0
    smoothing: int = 0
    anchor_factor: float = 1.0
    data: str = "fashion-10k"
    seed: int = 100
    epochs: int = 30


# Numbers of anchors that the report compares under noise and smoothing, and that the paper has.
COMPARED = (0, 8)
ANCHORS = (0, 1, 2, 3, 4, 5, 6, 8, 10)
TABLES: dict[int, list[Setup]] = {
    1: [Setup(num_anchors=k) for k in PAPER_BY_ANCHORS],
    2: [Setup(k, noise=n) for n in PAPER_BY_NOISE for k in ANCHORS],
    3: [Setup(k, smoothing=s) for s in PAPER_BY_SMOOTHING for k in ANCHORS],
    4: [Setup(smoothing=11, anchor_factor=f) for f in PAPER_BY_FACTOR],
}


def do_setup(setup: Setup) -> dict[str, Any]:
    """Train one cell to the last epoch and evaluate it."""
    task = symmetric(setup.noise / 100)(DATA[setup.data](setup.seed), setup.seed)
    recipe = replace(
        PAPER,
        num_anchors=setup.num_anchors,
        label_smoothing=setup.smoothing / 100,
        anchor_weight=setup.anchor_factor * PAPER.anchor_weight,
        # Without anchors the paper has no correction at all: its baseline.
        attention=PAPER.attention if setup.num_anchors else "off",
    )
    torch.manual_seed(setup.seed)
    start = time.perf_counter()
    make = partial(Ours, budget=setup.epochs, is_wrapped=False, recipe=recipe)
    method = trained(make, task)
    seconds = round(time.perf_counter() - start, 1)
    judged = prediction_measures(predict(method, task.test_inputs), task.test_labels)
    return {**setup._asdict(), "seconds": seconds, **judged}


def plan(
    quick: Quick = False,
    data: Annotated[list[str] | None, one_of(DATA)] = None,
    table: Annotated[list[int] | None, typer.Option(min=1, max=4, help="Repeatable.")] = None,
    seeds: Seeds = 5,
    epochs: Epochs = 30,
) -> Plan:
    """Plan the runs: Table 1 is also the first column of Tables 2 and 3."""
    setups: dict[Setup, None] = {
        setup._replace(data=name, seed=FIRST_SEED + seed, epochs=epochs): None
        for name in data or ("fashion-10k", "faces-7k")
        for seed in range(seeds)
        for number in table or TABLES
        for setup in TABLES[number]
        if not quick or number in (1, 4) or setup.num_anchors in COMPARED
    }
    return Plan(
        Setup, do_setup, list(setups), lambda lines: report(lines[lines["epochs"] == epochs])
    )
