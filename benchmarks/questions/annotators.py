"""Labels of several annotators: is ours more accurate than Dawid-Skene, cleanlab and plain votes?

Ten simulated annotators of unequal quality, each with their own confusions, give 1 to 4 labels per
sample. All methods train the same encoder for the same epochs. Judged: accuracy on the test set,
right consensus labels, the error of the annotators' matrices, and CPU time.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from cleanlab.multiannotator import get_label_quality_multiannotator
from crowdkit.aggregation import DawidSkene
from torch import Tensor, nn

from benchmarks.data.annotators import annotator_matrices, draw_labels, majority, vote_counts
from benchmarks.data.task import Task, shuffled
from benchmarks.data.tasks import DATA as LARGE_DATA
from benchmarks.data.tasks import FIRST_SEED, fashion
from benchmarks.measures import accuracy
from benchmarks.methods.base import Method, predict
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.methods.ours import Ours
from benchmarks.networks import hidden_layers
from benchmarks.options import Seeds, one_of
from benchmarks.reports.annotators import EPOCHS, METHODS, OURS, WIDTH, report
from benchmarks.runs import Plan
from benchmarks.training import cross_validated, train

DATA: dict[str, Callable[[int], Task]] = {
    "digits-4k": LARGE_DATA["digits-4k"],
    "fashion-4k": partial(fashion, 4_000),
}


class Run(NamedTuple):
    """Key of a run: a data set and a seed; all methods see the same labels."""

    data: str
    seed: int


def trained(task: Task, method: str, seed: int) -> Method:
    """Return a method of ON_PIXELS, with a small encoder, trained on this task."""
    torch.manual_seed(seed)
    made = ON_PIXELS[method](task, EPOCHS)
    encoder = hidden_layers(task.inputs.shape[1], WIDTH, task.network.width)
    made.network = nn.Sequential(*encoder, made.head)
    train(made, task)
    return made


def dawid_skene(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return crowd-kit's posteriors (N, C) and matrices (A, C, C); uniform if undetermined."""
    task, worker = (labels >= 0).nonzero(as_tuple=True)
    table = pd.DataFrame({"task": task, "worker": worker, "label": labels[task, worker]})
    model = DawidSkene(n_iter=100).fit(table)
    assert model.probas_ is not None and model.errors_ is not None  # noqa: PT018
    classes, annotators = range(num_classes), range(labels.shape[1])
    found = model.probas_.reindex(index=range(len(labels)), columns=classes, fill_value=0.0)
    rows = pd.MultiIndex.from_product([annotators, classes], names=["worker", "label"])
    errors = model.errors_.reindex(index=rows, columns=classes, fill_value=0.0)
    # In crowd-kit, rows are labels and columns are true classes.
    matrices = torch.from_numpy(errors.to_numpy(copy=True)).float()
    matrices = matrices.view(len(annotators), num_classes, num_classes).transpose(1, 2)
    sums = matrices.sum(-1, keepdim=True)
    matrices = torch.where(sums > 0, matrices / sums.clamp_min(1e-9), 1.0 / num_classes)
    return torch.from_numpy(found.to_numpy(copy=True)).float(), matrices


def cleanlab_consensus(task: Task, labels: Tensor, seed: int) -> Tensor:
    """Return cleanlab's consensus labels (N,), from votes and cross-validated predictions."""
    fit = partial(trained, method="cross-entropy", seed=seed)
    probs = cross_validated(fit, task, shuffled(len(labels), seed))
    given = labels.double().numpy()
    given[given < 0] = np.nan
    found = get_label_quality_multiannotator(
        pd.DataFrame(given), probs.double().numpy(), verbose=False
    )
    return torch.from_numpy(found["label_quality"]["consensus_label"].to_numpy(copy=True)).long()


def do_run(run: Run) -> dict[str, Any]:
    """Return accuracy, right consensus labels, matrix error and CPU seconds of each method."""
    task = DATA[run.data](run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    classes, num_classes = task.labels, task.num_classes
    matrices = annotator_matrices(num_classes, generator)
    labels = draw_labels(classes, matrices, generator)
    voted = task._replace(labels=majority(labels, num_classes, generator))
    counts = vote_counts(labels, num_classes).float()
    shares = counts / counts.sum(1, keepdim=True)
    found: dict[str, dict[str, float]] = {}
    for name in METHODS:
        start = time.process_time()
        method, part, consensus, learned = "cross-entropy", voted, None, None
        if name == "majority vote":
            consensus = voted.labels
        elif name == "vote shares":
            part = task._replace(labels=shares)
        elif name.startswith("Dawid-Skene"):
            posterior, learned = dawid_skene(labels, num_classes)
            consensus = posterior.argmax(1)
            part = task._replace(labels=consensus if name.endswith("labels") else posterior)
        elif name == "cleanlab consensus":
            consensus = cleanlab_consensus(voted, labels, run.seed)
            part = task._replace(labels=consensus)
        elif name == "true labels":
            part = task
        else:
            method = "ours, robust"
            part = (
                voted._replace(annotators=labels) if name == OURS else task._replace(labels=shares)
            )
        made = trained(part, method, run.seed)
        if isinstance(made, Ours):
            ranking = made.criterion.doubtful_labels()
            consensus = ranking.suggested[ranking.sample.argsort()]
            learned = made.criterion.annotator_matrices
        seconds = time.process_time() - start
        found[name] = {
            "accuracy": accuracy(predict(made, task.test_inputs), task.test_labels),
            "cpu": round(seconds, 1),
        }
        if consensus is not None:
            found[name]["consensus"] = 100 * float((consensus == classes).double().mean())
        if learned is not None:
            found[name]["matrix_error"] = 100 * float((learned - matrices).abs().mean())
    single = labels[labels >= 0] == classes.unsqueeze(1).expand_as(labels)[labels >= 0]
    return {
        **run._asdict(),
        "labels": float((labels >= 0).sum(1).double().mean()),
        "right": 100 * float(single.double().mean()),
        "found": found,
    }


def plan(data: Annotated[list[str] | None, one_of(DATA)] = None, seeds: Seeds = 3) -> Plan:
    """Plan the runs."""
    drawn = range(FIRST_SEED, FIRST_SEED + seeds)
    return Plan(Run, do_run, [Run(name, seed) for seed in drawn for name in data or DATA], report)
