"""Can class frequencies be estimated from unlabelled data, and what does that gain?

`estimate_class_prior` (EM), after each calibration, is compared with BBSE on predictions of
cross-entropy and ours: the error of the estimated frequencies, and the accuracy of predictions
adjusted to them. Fashion-MNIST is tested with the training frequencies reversed; with --fer-plus
and --cache also FER2013 with FER+'s.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import typer
from torch import Tensor

from benchmarks.data.corruptions import imbalanced
from benchmarks.data.human_tasks import Folders, make_task, prepare_embeddings
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.measures import accuracy
from benchmarks.methods.base import Method, predict
from benchmarks.methods.compared import ON_HUMAN_LABELS, ON_PIXELS
from benchmarks.options import Cache, FerPlus, Seeds
from benchmarks.reports.label_shift import FACES, FASHION, report
from benchmarks.runs import Plan
from benchmarks.training import trained
from reliability_balance.calibration import TemperatureScaling, VectorScaling, estimate_class_prior

RATIO, HELD_OUT_SHARE, TRAINED = 17, 0.2, 10_000
COMPARED = {"cross-entropy": "cross-entropy", "ours": "ours, robust"}  # on human labels, on pixels


class Run(NamedTuple):
    """Key of a run."""

    data: str
    method: str
    seed: int


class Predictions(NamedTuple):
    """Log-probabilities for even classes of held-out and test data, and the labels of both."""

    held_out: Tensor
    held_labels: Tensor
    test: Tensor
    test_labels: Tensor


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train, calibrate and estimate."""
    made = on_fashion(run) if run.data == FASHION else on_faces(run, folders)
    return {**run._asdict(), **judge(made)}


def judge(predictions: Predictions) -> dict[str, float]:
    """Return errors of the frequencies and accuracies, in percent."""
    held_out, held_labels, test, test_labels = predictions
    num_classes = test.shape[1]
    source = held_labels.bincount(minlength=num_classes).clamp_min(1)
    true = test_labels.bincount(minlength=num_classes).clamp_min(1) / len(test_labels)
    found: dict[str, float] = {}
    for way, scaling in {
        "none": None,
        "temperature": TemperatureScaling(),
        "vector": VectorScaling(num_classes),
    }.items():
        held, calibrated = held_out, test
        if scaling is not None:
            scaling.fit(held_out, held_labels, class_prior=source)
            held, calibrated = scaling(held_out), scaling(test)
        estimates = {way: estimate_class_prior(calibrated)}
        if way == "temperature":
            estimates["bbse"] = bbse(held, held_labels, calibrated)
        even = torch.ones(num_classes)
        known = {f"even {way}": even, f"source {way}": source, f"true {way}": true}
        for name, prior in {**estimates, **known}.items():
            adjusted = calibrated + (prior / prior.sum()).log()
            found[f"accuracy {name}"] = accuracy(adjusted, test_labels)
        for name, prior in estimates.items():
            found[f"error {name}"] = 50 * float((prior - true).abs().sum())
    return found


def bbse(held_out: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Black box shift estimation (Lipton et al., ICML 2018), with probabilities."""
    means = [held_out[labels == each].exp().mean(0) for each in range(test.shape[1])]
    solved = torch.linalg.lstsq(torch.stack(means, 1), test.exp().mean(0, keepdim=True).T)
    prior: Tensor = solved.solution.squeeze(1).clamp_min(0.5 / len(test))
    return prior / prior.sum()


def on_fashion(run: Run) -> Predictions:
    """Train on imbalanced classes; predict held-out ones, and test data with these reversed."""
    whole = DATA["fashion-60k"](run.seed)  # begins with the samples of fashion-10k
    first, rest = (
        imbalanced(RATIO)(whole.rows(rows), run.seed)
        for rows in (slice(TRAINED), slice(TRAINED, 2 * TRAINED))
    )
    torch.manual_seed(run.seed)
    method = trained(partial(ON_PIXELS[COMPARED[run.method]], budget=30), first)
    share = RATIO ** (-(9 - torch.arange(10)) / 9)
    generator = torch.Generator().manual_seed(run.seed)
    kept = torch.rand(len(whole.test_labels), generator=generator) < share[whole.test_labels]
    counts = first.labels.bincount(minlength=10)
    return Predictions(
        for_even(method, rest.inputs, counts),
        rest.labels,
        for_even(method, whole.test_inputs[kept], counts),
        whole.test_labels[kept],
    )


def on_faces(run: Run, folders: Folders) -> Predictions:
    """Train on four fifths of FER2013's labels; predict the rest, and FER+'s test set."""
    task = make_task(FACES, "embeddings", 0, run.seed, folders)
    count = round((1 - HELD_OUT_SHARE) * len(task.labels))
    torch.manual_seed(run.seed)
    method = trained(partial(ON_HUMAN_LABELS[run.method], budget=20), task.rows(slice(count)))
    counts = task.labels[:count].bincount(minlength=7)
    return Predictions(
        for_even(method, task.inputs[count:], counts),
        task.labels[count:],
        for_even(method, task.test_inputs, counts),
        task.test_labels,
    )


def for_even(method: Method, inputs: Tensor, counts: Tensor) -> Tensor:
    """Predict for evenly frequent classes, after training on these counts."""
    wide = predict(method, inputs).float()
    return wide if method.for_even_classes else (wide - counts.log()).log_softmax(1)


def plan(fer_plus: FerPlus = None, cache: Cache = None, seeds: Seeds = 3) -> Plan:
    """Plan the runs; FER2013 where its folder is given."""
    if (fer_plus is None) is not (cache is None):
        raise typer.BadParameter("--fer-plus and --cache must be given together; got one")
    folders = Folders(fer_plus, cache=cache)
    runs = [
        Run(data, method, FIRST_SEED + seed)
        for data in [FASHION] + [FACES] * (fer_plus is not None)
        for seed in range(seeds)
        for method in COMPARED
    ]
    prepare = partial(prepare_embeddings, folders)
    return Plan(Run, partial(do_run, folders=folders), runs, report, prepare=prepare)
