"""Does `Familiarity` detect inputs that belong to no class, beside ten other scores?

One network of ours is trained for each data set, its labels and a seed; every score of
`methods/detectors.py` judges its outputs for the test set and for each strange set of
`data/strange.py`: AUROC, FPR at 95 %, and the share of false alarms. CIFAR-10 and FER+ are run
where their folders are named (--cifar, --fer-plus, --cache).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

from benchmarks.cost.familiarity import cost
from benchmarks.data.human_tasks import Folders, prepare_embeddings
from benchmarks.data.strange import DATA, FACE_LABELS, ON_PIXELS
from benchmarks.data.tasks import FIRST_SEED
from benchmarks.measures import detection
from benchmarks.methods.detectors import Trained, scores
from benchmarks.methods.ours import Ours
from benchmarks.options import Cache, Cifar, FerPlus, Seeds
from benchmarks.reports.out_of_distribution import COST, report
from benchmarks.runs import Plan
from benchmarks.training import trained
from reliability_balance import BalancerOutput
from reliability_balance.calibration import Familiarity

EPOCHS, HUMAN_EPOCHS = 30, 20
TESTED = 4000  # inputs of the test set, at most
LABELS = ("clean", "symmetric-40")


class Run(NamedTuple):
    """Key of a run: a data set, its labels, a seed."""

    data: str
    labels: str
    seed: int


class Network(NamedTuple):
    """A trained network's outputs for training and test data and each strange set."""

    trained: Trained
    test: BalancerOutput
    strange: Mapping[str, BalancerOutput]


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train and judge every score; of the cost alone measure time."""
    judged = cost(run.seed) if run.data == COST else judge(network(run, folders))
    return {**run._asdict(), **judged}


def network(run: Run, folders: Folders) -> Network:
    """Train ours, and return its outputs."""
    task, strange = DATA[run.data](run.labels, run.seed, folders)
    torch.manual_seed(run.seed)
    is_on_pixels = run.data in ON_PIXELS
    epochs = EPOCHS if is_on_pixels else HUMAN_EPOCHS
    method = trained(partial(Ours, budget=epochs, is_wrapped=not is_on_pixels), task)
    head = method.criterion.balancer.head
    assert isinstance(head, nn.Linear)  # the recipe's
    return Network(
        Trained(method.outputs(task.inputs), task.labels, head.requires_grad_(False)),
        method.outputs(task.test_inputs[:TESTED]),
        {name: method.outputs(inputs) for name, inputs in strange.items()},
    )


def judge(network: Network) -> dict[str, Any]:
    """AUROC and FPR at 95 % of each score on each strange set; false alarms of ours, in %."""
    found: dict[str, dict[str, list[float]]] = {}
    for method, score in scores(network.trained):
        known = score(network.test)
        found[method] = {
            name: [auroc(known, strange), fpr_at_95(known, strange)]
            for name, output in network.strange.items()
            for strange in [score(output)]
        }
    return {"found": found, "false_alarms": false_alarms(network)}


def auroc(known: Tensor, strange: Tensor) -> float:
    """Area under the ROC curve, in %, of scores that are higher for strange inputs."""
    is_strange = torch.cat([torch.zeros(len(known)), torch.ones(len(strange))]).bool()
    return 100 * detection(torch.cat([known, strange]), is_strange)["auroc"]


def fpr_at_95(known: Tensor, strange: Tensor) -> float:
    """Share of strange inputs, in %, accepted by the threshold that accepts 95 % of the known."""
    threshold = known.double().quantile(0.95)
    return 100 * float((strange.double() <= threshold).double().mean())


def false_alarms(network: Network) -> list[float]:
    """Share of test data, in %, rejected at a rate of 5 %: fitted on training, on held-out data."""
    output, test = network.trained.output, network.test
    order = torch.randperm(len(test.embedding), generator=torch.Generator().manual_seed(0))
    # Some of the samples, as far as the score needs them.
    held_out, others = (
        BalancerOutput(test.log_probs[part], test.logits[part], test.embedding[part])
        for part in order.chunk(2)
    )
    plain = Familiarity(output.embedding.shape[1]).fit(output)
    calibrated = Familiarity(output.embedding.shape[1]).fit(output, held_out=held_out)
    return [
        100 * float((~each.is_familiar(others)).double().mean()) for each in (plain, calibrated)
    ]


def plan(
    fer_plus: FerPlus = None, cifar: Cifar = None, cache: Cache = None, seeds: Seeds = 3
) -> Plan:
    """Plan the runs on the data sets that are there."""
    if cifar is not None and cache is None:
        raise typer.BadParameter("must be a folder where --cifar is given", param_hint="--cache")
    if fer_plus is not None and cifar is None:
        raise typer.BadParameter("must be given for FER+, as non-faces", param_hint="--cifar")
    wanted = {COST: ("",), **dict.fromkeys(ON_PIXELS, LABELS)}
    if cifar is not None:
        wanted["CIFAR-10 without a class"] = LABELS
    if fer_plus is not None:
        wanted["FER+"] = tuple(FACE_LABELS)
    runs = [
        Run(data, labels, seed)
        for data, each in wanted.items()
        for labels in each
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
    ]
    folders = Folders(fer_plus, cifar, cache)
    return Plan(
        Run,
        partial(do_run, folders=folders),
        runs,
        partial(report, data=list(DATA)),
        prepare=partial(prepare_embeddings, folders),
    )
