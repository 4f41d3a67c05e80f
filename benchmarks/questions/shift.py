"""Do predictions stay accurate, calibrated and selective on corrupted images?

Five methods train the same perceptron on 8,000 images of Fashion-MNIST, with clean labels and with
40 % wrong ones. Each is calibrated on 2,000 held-out samples with clean labels, and tested on
images with noise, blur, lower contrast, JPEG compression or lower brightness, in five strengths:
accuracy, ECE, AURC, and the coverage and size of 90 % prediction sets.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.image_shift import shifted
from benchmarks.data.tasks import DATA, FIRST_SEED, standardised
from benchmarks.measures import prediction_measures
from benchmarks.methods.base import Method, in_parts
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.methods.ours import Ours
from benchmarks.options import Epochs, Seeds
from benchmarks.reports.shift import MEASURES, PLAIN, report
from benchmarks.runs import Plan
from benchmarks.training import trained
from examples.image_data import load_images
from reliability_balance.calibration import BranchTemperatures, PredictionSets, TemperatureScaling

HELD_OUT_SHARE, TESTED, COVERAGE = 0.2, 4000, 0.9
METHODS = ("cross-entropy", "label smoothing", "GCE", "ELR", "ours, robust")

Predict = Callable[[Tensor], Tensor]


class Run(NamedTuple):
    """Key of a run."""

    labels: str
    method: str
    seed: int
    epochs: int


def do_run(run: Run) -> dict[str, Any]:
    """Train and calibrate; return the measures by way of predicting and by shift."""
    task = CORRUPTIONS[run.labels](DATA["fashion-10k"](run.seed), run.seed)
    count = round((1 - HELD_OUT_SHARE) * len(task.labels))
    torch.manual_seed(run.seed)
    method = trained(partial(ON_PIXELS[run.method], budget=run.epochs), task.rows(slice(count)))
    method.eval()
    held_out, clean_labels = task.inputs[count:], task.truth[count:].argmax(1)
    ways = predictors(method, held_out, clean_labels)
    sets = {
        way: PredictionSets(COVERAGE).fit(in_parts(predict, held_out), clean_labels)
        for way, predict in ways.items()
    }
    images, labels = load_images().test.images[:TESTED], task.test_labels[:TESTED]
    found: dict[str, dict[str, dict[str, float]]] = {way: {} for way in ways}
    for (name, strength), corrupt in ({(PLAIN, 0): images.clone} | shifted(images)).items():
        inputs = standardised(corrupt().flatten(1).float() / 255)
        for way, predict in ways.items():
            judged = judge(in_parts(predict, inputs), labels, sets[way])
            found[way][f"{name} {strength}"] = judged
    return {**run._asdict(), "found": found}


def predictors(method: Method, held_out: Tensor, labels: Tensor) -> dict[str, Predict]:
    """Return what predicts log-probabilities: as trained, and calibrated on clean labels."""
    if isinstance(method, Ours):
        output, branches = method.output, BranchTemperatures()
        branches.fit(method.outputs(held_out), labels)
        return {
            "primary": lambda inputs: output(inputs).primary_log_probs,
            "corrected": lambda inputs: output(inputs).log_probs,
            "calibrated": lambda inputs: branches(output(inputs)),
        }
    scaling = TemperatureScaling().fit(in_parts(method.log_probs, held_out), labels)
    return {
        "as trained": method.log_probs,
        "calibrated": lambda inputs: scaling(method.log_probs(inputs)),
    }


def judge(log_probs: Tensor, labels: Tensor, sets: PredictionSets) -> dict[str, float]:
    """Return the measures of predictions, and the coverage and mean size of their sets."""
    measures = prediction_measures(log_probs, labels)
    covered = sets(log_probs)
    measures["coverage"] = 100 * float(covered.gather(1, labels.unsqueeze(1)).double().mean())
    measures["set_size"] = float(covered.sum(1).double().mean())
    return {name: round(measures[name], 4) for name in MEASURES}


def plan(seeds: Seeds = 3, epochs: Epochs = 30) -> Plan:
    """Plan the runs: 10 short trainings for each seed."""
    runs = [
        Run(labels, method, FIRST_SEED + seed, epochs)
        for seed in range(seeds)
        for labels in ("clean", "symmetric-40")
        for method in METHODS
    ]
    return Plan(Run, do_run, runs, lambda lines: report(lines[lines["epochs"] == epochs]))
