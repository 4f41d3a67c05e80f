"""Do prediction sets cover every class of imbalanced data? One threshold, and one for each class.

Cross-entropy and ours train on 100 samples of the most frequent class for each one of the rarest,
and are calibrated on held-out data of the same frequencies. `PredictionSets` and
`ClassPredictionSets` are judged by coverage and size of each class on a balanced test set, and
compared with TorchCP's where it is installed (`pip install torchcp`).
"""

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.methods.base import predict
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.options import Epochs, Seeds
from benchmarks.questions.robustness import Run
from benchmarks.reports.class_coverage import (
    COUNTS,
    DRAWS,
    FREE_RANKS,
    NUM_CLASSES,
    PENALTY,
    THRESHOLDS,
    report,
)
from benchmarks.runs import Plan
from benchmarks.training import trained
from reliability_balance.calibration import ClassPredictionSets, PredictionSets, TemperatureScaling

CORRUPTION, COMPARED = "imbalance-100", ("cross-entropy", "ours, robust")
COVERAGE, TRAINED = 0.9, 10_000
SCORES: dict[str, dict[str, Any]] = {
    "lac": {},
    "aps": {"score": "aps"},
    "raps": {"score": "raps", "penalty": PENALTY, "free_ranks": FREE_RANKS},
}
Predict = Callable[[Tensor], Tensor]


def do_run(run: Run) -> dict[str, Any]:
    """Train, calibrate, and fit sets on several draws of held-out data."""
    whole = DATA["fashion-60k"](run.seed)  # begins with the samples of fashion-10k
    task = CORRUPTIONS[run.corruption](whole.rows(slice(TRAINED)), run.seed)
    torch.manual_seed(run.seed)
    method = trained(partial(ON_PIXELS[run.method], budget=run.epochs), task)
    pool, labels = predict(method, whole.inputs[TRAINED:]), whole.labels[TRAINED:]
    generator = torch.Generator().manual_seed(run.seed)
    chosen, rest = draw(torch.arange(len(labels)), labels, generator)
    counts = labels[chosen].bincount() if method.for_even_classes else None
    scaling = TemperatureScaling().fit(pool[chosen], labels[chosen], class_prior=counts)
    pool, test = scaling(pool), scaling(predict(method, task.test_inputs))
    return {**run._asdict(), **judge(pool, labels, rest, test, task.test_labels, generator)}


def draw(rows: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw COUNTS samples of each class from the rows; return them, and the other rows."""
    rows = rows[torch.randperm(len(rows), generator=generator)]
    parts = [rows[labels[rows] == each].tensor_split([n]) for each, n in enumerate(COUNTS)]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))  # type: ignore[return-value]


def judge(
    pool: Tensor,
    labels: Tensor,
    rows: Tensor,
    test: Tensor,
    test_labels: Tensor,
    generator: torch.Generator,
) -> dict[str, dict[str, list[float]]]:
    """Return coverage in percent and set size of each class, by score and thresholds."""
    totals: dict[str, dict[str, Tensor]] = defaultdict(
        lambda: defaultdict(lambda: torch.zeros(NUM_CLASSES, dtype=torch.float64))
    )
    of_class = F.one_hot(test_labels, NUM_CLASSES).double()
    of_class /= of_class.sum(0)
    fits = {"": ours}
    if importlib.util.find_spec("torchcp") is not None:
        fits["torchcp_"] = torchcps
    for _ in range(DRAWS):
        held, _ = draw(rows, labels, generator)
        for prefix, fit in fits.items():
            for score in SCORES:
                for kind in THRESHOLDS:
                    sets = fit(score, kind, pool[held], labels[held], generator)(test)
                    right = sets.gather(1, test_labels.unsqueeze(1)).squeeze(1).double()
                    name = f"{score} {kind}"
                    totals[f"{prefix}coverage"][name] += 100 * (right @ of_class) / DRAWS
                    totals[f"{prefix}size"][name] += sets.sum(1).double() @ of_class / DRAWS
    return {
        measure: {name: [round(each, 4) for each in value.tolist()] for name, value in by.items()}
        for measure, by in totals.items()
    }


def ours(
    score: str, kind: str, log_probs: Tensor, labels: Tensor, generator: torch.Generator
) -> Predict:
    """Fit the library's sets."""
    settings = SCORES[score]
    sets = (
        PredictionSets(COVERAGE, **settings)
        if kind == "all"
        else ClassPredictionSets(NUM_CLASSES, COVERAGE, **settings)
    ).fit(log_probs, labels, generator=generator)
    return lambda test: sets(test, generator=generator)


def torchcps(
    score: str, kind: str, log_probs: Tensor, labels: Tensor, generator: torch.Generator
) -> Predict:
    """Fit TorchCP's sets; it draws from torch's default generator."""
    from torchcp.classification import predictor
    from torchcp.classification import score as scores

    settings = {"penalty": PENALTY, "kreg": FREE_RANKS} if score == "raps" else {}
    function = getattr(scores, score.upper())(**settings)
    kinds = {"all": predictor.SplitPredictor, "class": predictor.ClassConditionalPredictor}
    sets = kinds[kind](function)
    sets.calculate_threshold(log_probs, labels, alpha=1 - COVERAGE)
    return lambda test: sets.predict_with_logits(test).bool()


def plan(seeds: Seeds = 3, epochs: Epochs = 30) -> Plan:
    """Plan the runs: 6 short trainings."""
    runs = [
        Run("fashion-10k", CORRUPTION, method, FIRST_SEED + seed, epochs)
        for seed in range(seeds)
        for method in COMPARED
    ]
    return Plan(Run, do_run, runs, lambda lines: report(lines[lines["epochs"] == epochs]))
