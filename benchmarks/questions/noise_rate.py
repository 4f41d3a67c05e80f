"""Does the interval of the noise rate cover the truth, and can noisy held-out labels calibrate?

Ours trains on five data sets with three kinds of noise, four rates and two lengths, 60 runs. The
rate by held-back training labels, and by held-out labels, is compared with the truth, with a
bootstrap of the beliefs, and with cleanlab's on the same network. `calibrate` is judged by ECE,
with clean and with noisy held-out labels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from cleanlab.count import estimate_joint
from torch import Tensor
from torch.nn import functional as F

from benchmarks.data.corruptions import instance, pair, symmetric
from benchmarks.data.task import Task, shuffled
from benchmarks.data.tasks import digits, faces, fashion, small_digits, texts
from benchmarks.measures import prediction_measures
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.methods.ours import Ours
from benchmarks.reports.noise_rate import FULL, HELD_OUT, KINDS, SHORT, SIZE, report
from benchmarks.runs import Plan
from benchmarks.training import cross_validated, trained
from reliability_balance import calibrate
from reliability_balance.labels import estimate_noise, noise_from_beliefs, noise_rate_bounds

DATA: dict[str, Callable[[int], Task]] = {
    "scikit-learn's digits": small_digits,
    "digits": partial(digits, SIZE),
    "rendered faces": partial(faces, SIZE),
    "Fashion-MNIST": partial(fashion, SIZE),
    "texts": partial(texts, SIZE),
}
CORRUPTIONS = dict(zip(KINDS, (symmetric, pair, instance), strict=True))
LOW, HIGH = (0.1, 0.2), (0.3, 0.4)
RESAMPLES = 50


class Run(NamedTuple):
    """Key of a run."""

    data: str
    kind: str
    rate: float
    epochs: int
    seed: int


def do_run(run: Run) -> dict[str, Any]:
    """Train, estimate the rate in all ways, calibrate, and evaluate."""
    task = DATA[run.data](run.seed)
    held, test = halves(task, run.seed)
    if run.rate:
        corrupt = CORRUPTIONS[run.kind](run.rate)
        task, held = corrupt(task, run.seed), corrupt(held, run.seed + 1)
    torch.manual_seed(run.seed)
    method = trained(partial(Ours, budget=run.epochs, is_wrapped=False), task)
    targets, index = method.targets, torch.arange(len(task.labels))
    confidence, classes = method.outputs(held.inputs).corrected.max(1)
    found = {
        "held_back": estimate_noise(targets, task.labels, num_resamples=2).rate,
        "held_out": noise_rate_bounds(confidence.clamp_max(1.0), (classes == held.labels).float()),
        "bootstrap": noise_from_beliefs(
            targets.beliefs(index), task.labels, targets.noise_matrix, num_resamples=RESAMPLES
        ).rate,
    }
    clean = calibrate(method.network, [(held.inputs, held.truth.argmax(1))])
    noisy = calibrate(method.network, [(held.inputs, held.labels)], noise=method.criterion)
    output = method.outputs(test.inputs)
    log_probs = {
        "none": output.log_probs,
        "clean": clean.calibrator(output),
        "noisy": noisy.calibrator(output),
    }
    return {
        **run._asdict(),
        "true": {
            "training": float(task.wrong.float().mean()),
            "held": float(held.wrong.float().mean()),
        },
        **{name: [round(float(each), 4) for each in rate] for name, rate in found.items()},
        "cleanlab": cleanlab(task, run),
        **{
            f"ece_{name}": round(prediction_measures(each, test.labels)["ece"], 3)
            for name, each in log_probs.items()
        },
    }


def halves(task: Task, seed: int) -> tuple[Task, Task]:
    """Return two halves of the test set, of HELD_OUT samples at most, as tasks."""
    chosen = shuffled(len(task.test_labels), seed)[: 2 * HELD_OUT]
    labels = task.test_labels[chosen]
    truth = F.one_hot(labels, task.num_classes).float()
    whole = task._replace(inputs=task.test_inputs[chosen], labels=labels, truth=truth)
    count = len(chosen) // 2
    return whole.rows(slice(count)), whole.rows(slice(count, None))


def cleanlab(task: Task, run: Run) -> float:
    """Return the rate of cleanlab's confident joint, by 5-fold cross-validation."""
    torch.manual_seed(run.seed)
    fit = partial(trained, partial(ON_PIXELS["cross-entropy"], budget=run.epochs))
    probs: Tensor = cross_validated(fit, task, torch.randperm(len(task.labels)))
    joint = estimate_joint(task.labels.numpy(), probs.double().numpy())
    return round(float(1 - joint.trace()), 4)


def plan() -> Plan:
    """Plan the runs: 60 short trainings, with lengths and low rates in turn."""
    runs = [
        Run(data, kind, rate, (FULL, SHORT)[(k + d + r) % 2], len(DATA) * k + d)
        for d, data in enumerate(DATA)
        for k, kind in enumerate(KINDS)
        for r, rate in enumerate((0.0, LOW[(k + d) % 2], *HIGH))
    ]
    # Interrupted runs are of all kinds.
    return Plan(Run, do_run, [runs[place] for place in shuffled(len(runs), 0)], report)
