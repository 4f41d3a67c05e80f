"""Are our probabilities calibrated, compared with temperature-scaled cross-entropy?

Both train the same perceptron on 8,000 images of Fashion-MNIST, with clean and with noisy labels.
Each calibration is fitted on 2,000 held-out samples, with clean labels, with noisy ones, and with
noisy ones and the noise matrix learned in training. Judged on the test set: ECE and NLL, and the
coverage and size of prediction sets.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.measures import prediction_measures
from benchmarks.methods.base import predict
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.methods.ours import Ours
from benchmarks.options import Epochs, Seeds
from benchmarks.questions.robustness import Run
from benchmarks.reports.calibration import BASELINE, OURS, report
from benchmarks.runs import Plan
from benchmarks.training import trained
from reliability_balance import BalancerOutput
from reliability_balance.calibration import (
    BranchTemperatures,
    PredictionSets,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
    fit_with_noise,
)

HELD_OUT_SHARE = 0.2
COVERAGE = 0.9


class Predictions(NamedTuple):
    """Log-probabilities of a trained method for held-out and test data, and the labels of both.

    Ours also has the outputs with all branches, and its noise matrix.
    """

    held_out: Tensor
    clean_labels: Tensor
    noisy_labels: Tensor
    test: Tensor
    test_labels: Tensor
    held_out_output: BalancerOutput | None = None
    test_output: BalancerOutput | None = None
    noise_matrix: Tensor | None = None


def do_run(run: Run) -> dict[str, Any]:
    """Train, calibrate and evaluate."""
    return {**run._asdict(), **judge(train_and_predict(run), run.seed)}


def train_and_predict(run: Run) -> Predictions:
    """Train to the last epoch, without the held-out data."""
    task = CORRUPTIONS[run.corruption](DATA[run.data](run.seed), run.seed)
    count = round((1 - HELD_OUT_SHARE) * len(task.labels))
    torch.manual_seed(run.seed)
    method = trained(partial(ON_PIXELS[run.method], budget=run.epochs), task.rows(slice(count)))
    held_out = task.inputs[count:]
    predictions = Predictions(
        held_out=predict(method, held_out),
        clean_labels=task.truth[count:].argmax(1),
        noisy_labels=task.labels[count:],
        test=predict(method, task.test_inputs),
        test_labels=task.test_labels,
    )
    if not isinstance(method, Ours):
        return predictions
    return predictions._replace(
        held_out_output=method.outputs(held_out),
        test_output=method.outputs(task.test_inputs),
        noise_matrix=method.targets.noise_matrix,
    )


def judge(predictions: Predictions, seed: int) -> dict[str, float]:
    """Return calibration error and likelihood on the test set after each calibration."""
    held_out, test = predictions.held_out, predictions.test
    clean, noisy = predictions.clean_labels, predictions.noisy_labels
    noise_matrix = predictions.noise_matrix
    calibrated = {
        "none": test,
        "clean": TemperatureScaling().fit(held_out, clean)(test),
        "vector_clean": VectorScaling(test.shape[1]).fit(held_out, clean)(test),
        "top_clean": TopLabelScaling().fit(held_out, clean)(test),
        "noisy": TemperatureScaling().fit(held_out, noisy)(test),
    }
    if noise_matrix is not None:
        for name, scaling in (("", TemperatureScaling()), ("top_", TopLabelScaling())):
            fit_with_noise(scaling, held_out, noisy, noise_matrix)
            calibrated[f"{name}cleaned"] = scaling(test)
    held_output, test_output = predictions.held_out_output, predictions.test_output
    if held_output is not None and test_output is not None:
        branches = BranchTemperatures().fit(held_output, clean)
        calibrated["branches_clean"] = branches(test_output)
        both = TopLabelScaling().fit(branches(held_output), clean)
        calibrated["both_clean"] = both(branches(test_output))
    measures: dict[str, float] = {}
    for name, log_probs in calibrated.items():
        found = prediction_measures(log_probs, predictions.test_labels)
        measures |= {f"{kind}_{name}": found[kind] for kind in ("ece", "nll", "accuracy")}
    return {**measures, **coverage(calibrated["clean"], predictions.test_labels, seed)}


def coverage(log_probs: Tensor, labels: Tensor, seed: int) -> dict[str, float]:
    """Fit prediction sets on one half of the test set; return their coverage on the other."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    fitted, counted = order.chunk(2)
    sets = PredictionSets(COVERAGE).fit(log_probs[fitted], labels[fitted])(log_probs[counted])
    held = sets.gather(1, labels[counted].unsqueeze(1))
    return {
        "coverage": 100 * float(held.float().mean()),
        "set_size": float(sets.sum(1).float().mean()),
    }


def plan(seeds: Seeds = 5, epochs: Epochs = 30) -> Plan:
    """Plan the runs: 30 short trainings."""
    runs = [
        Run("fashion-10k", corruption, method, FIRST_SEED + seed, epochs)
        for seed in range(seeds)
        for corruption in ("clean", "symmetric-40", "pair-30")
        for method in (BASELINE, OURS)
    ]
    return Plan(Run, do_run, runs, lambda lines: report(lines[lines["epochs"] == epochs]))
