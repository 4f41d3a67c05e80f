"""Does `SelectionScore` tell right predictions from wrong ones better than confidence does?

One network of ours is trained on human labels (CIFAR-10N, FER2013; frozen embeddings; --cifar,
--fer-plus and --cache) and on Fashion-MNIST, for each seed. All scores rank the same predictions,
for the class frequencies of the labels: AURC, AUGRC, and the error rate at 80 % coverage.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import typer
from torch import Tensor

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.human_tasks import Folders, make_task, prepare_embeddings
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.methods.ours import Ours
from benchmarks.options import Cache, Cifar, FerPlus, Seeds
from benchmarks.reports.selection import report
from benchmarks.runs import Plan
from benchmarks.training import trained
from reliability_balance import BalancerOutput, with_class_prior
from reliability_balance.calibration import (
    SelectionScore,
    area_under_generalized_risk,
    area_under_risk_coverage,
)

SAMPLES, EPOCHS, EPOCHS_ON_PIXELS, COVERAGE = 10_000, 20, 30, 0.8
NUM_REFERENCES = (1000, 2500, 10_000)
FASHION = {"Fashion-MNIST, clean": "clean", "Fashion-MNIST, 40 % symmetric": "symmetric-40"}
CIFAR = {"CIFAR-10N, one annotator": "cifar-random1", "CIFAR-10N, majority": "cifar-aggre"}
FACES = {"FER2013 judged by FER+": "fer2013"}


class Run(NamedTuple):
    """Key of a run."""

    data: str
    seed: int


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train, and judge all scores."""
    if run.data in FASHION:
        task = CORRUPTIONS[FASHION[run.data]](DATA["fashion-10k"](run.seed), run.seed)
        make = partial(Ours, budget=EPOCHS_ON_PIXELS, is_wrapped=False)
    else:
        name = (CIFAR | FACES)[run.data]
        task = make_task(name, "embeddings", SAMPLES, run.seed, folders)
        make = partial(Ours, budget=EPOCHS)
    torch.manual_seed(run.seed)
    method = trained(make, task)
    prior = method.criterion.class_prior
    train, test = (
        with_class_prior(method.outputs(inputs), prior)
        for inputs in (task.inputs, task.test_inputs)
    )
    beliefs = method.targets.beliefs(torch.arange(len(task.labels)))
    right = test.log_probs.argmax(1) == task.test_labels
    found = {name: judge(score, right) for name, score in scores(train, beliefs, test).items()}
    return {**run._asdict(), "error": 100 * float((~right).double().mean()), "found": found}


def scores(train: BalancerOutput, beliefs: Tensor, test: BalancerOutput) -> dict[str, Tensor]:
    """Return every score of the test set by name."""
    width, num_classes = train.embedding.shape[1], beliefs.shape[1]
    found = {
        "maximum probability": test.corrected.amax(1),
        "confidence": test.confidence,
        "margin": test.corrected.topk(2).values.diff(dim=1).neg().squeeze(1),
    }
    for count in NUM_REFERENCES:
        score = SelectionScore(width, num_classes, num_references=count).fit(train, beliefs)
        found[f"SelectionScore, {count:,} references"] = score(test)
    return found


def judge(score: Tensor, right: Tensor) -> dict[str, float]:
    """Return the measures of a score, in percent."""
    kept = score.argsort(descending=True)[: round(COVERAGE * len(right))]
    return {
        "aurc": 100 * area_under_risk_coverage(score, right),
        "augrc": 100 * area_under_generalized_risk(score, right),
        "risk": 100 * float((~right[kept]).double().mean()),
    }


def plan(
    fer_plus: FerPlus = None, cifar: Cifar = None, cache: Cache = None, seeds: Seeds = 5
) -> Plan:
    """Plan the runs; human labels where their folders are given."""
    if (fer_plus or cifar) and cache is None:
        raise typer.BadParameter("--cache must name a folder for embeddings; got none")
    human = [*(CIFAR if cifar else ()), *(FACES if fer_plus else ())]
    folders = Folders(fer_plus, cifar, cache)
    runs = [
        Run(data, FIRST_SEED + seed)
        for part in (human, FASHION)
        for seed in range(seeds)
        for data in part
    ]
    prepare = partial(prepare_embeddings, folders)
    return Plan(Run, partial(do_run, folders=folders), runs, report, prepare=prepare)
