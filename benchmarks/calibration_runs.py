"""One run: train on 80 % of the data, calibrate on 20 %, evaluate on the test set."""

from typing import Any, NamedTuple

import torch
from methods import METHODS, Balanced, Method, Robust
from noisy_data import CORRUPTIONS
from robustness_runs import Run, predict, train
from tasks import DATA
from torch import Tensor

from examples.prediction_report import score
from reliability_balance import BalancerOutput
from reliability_balance.calibration import (
    BranchTemperatures,
    PredictionSets,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
    fit_with_noise,
)
from reliability_balance.core import join_outputs

HELD_OUT_SHARE = 0.2
COVERAGE = 0.9


class Predictions(NamedTuple):
    """Predictions of a trained method on held-out and test data, with the labels of both.

    ``noise_matrix`` is the method's estimate from training, if it has one. The outputs have the
    balancer's branches, if there is a balancer.
    """

    held_out: Tensor
    clean_labels: Tensor
    noisy_labels: Tensor
    test: Tensor
    test_labels: Tensor
    held_out_output: BalancerOutput | None
    test_output: BalancerOutput | None
    noise_matrix: Tensor | None


def do_run(run: Run) -> dict[str, Any]:
    """Train, calibrate and evaluate."""
    return {**run._asdict(), **judge(train_and_predict(run), run.seed)}


def train_and_predict(run: Run) -> Predictions:
    """Train to the last epoch, without the held-out data."""
    torch.set_num_threads(1)
    task = CORRUPTIONS[run.corruption](DATA[run.data](run.seed), run.seed)
    count = round((1 - HELD_OUT_SHARE) * len(task.labels))
    trained = task.rows(slice(count))
    torch.manual_seed(run.seed)
    method = METHODS[run.method](trained)
    train(method, trained, run.epochs)
    held_out = task.inputs[count:]
    return Predictions(
        held_out=predict(method, held_out),
        clean_labels=task.truth[count:].argmax(1),
        noisy_labels=task.labels[count:],
        test=predict(method, task.test_inputs),
        test_labels=task.test_labels,
        held_out_output=_output(method, held_out),
        test_output=_output(method, task.test_inputs),
        noise_matrix=method.targets.noise_matrix if isinstance(method, Robust) else None,
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
        scores = score(log_probs.exp(), log_probs.clamp_min(-30), predictions.test_labels)
        measures |= {f"ece_{name}": scores.ece, f"nll_{name}": scores.nll}
        measures |= {f"accuracy_{name}": scores.accuracy}
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


@torch.no_grad()
def _output(method: Method, inputs: Tensor) -> BalancerOutput | None:
    if not isinstance(method, Balanced):
        return None
    method.eval()
    return join_outputs([method.predict(part) for part in inputs.split(1000)])
