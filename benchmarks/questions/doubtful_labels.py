"""Does ours find wrong labels without cross-validation, and separate them from ambiguous ones?

Fashion-MNIST with noisy labels: one short training of ours beside cleanlab, which needs five for
5-fold cross-validation of the same network: AUROC, AP and time, and the estimated share of wrong
labels. Rendered faces: mislabelled ones against ambiguous ones. Both methods run in one process;
CPU time is compared, since wall time depends on other load.
"""

import time
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores
from torch import Tensor, nn

from benchmarks.data.ambiguous_faces import AmbiguousFaces, ambiguous_faces
from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.task import Task
from benchmarks.data.tasks import DATA, FIRST_SEED
from benchmarks.measures import detection
from benchmarks.methods.compared import ON_PIXELS
from benchmarks.methods.ours import Ours
from benchmarks.networks import perceptron
from benchmarks.options import Seeds, one_of
from benchmarks.reports.doubtful_labels import report
from benchmarks.runs import Plan
from benchmarks.training import cross_validated, train, trained
from examples.arbex.encoders import SmallCNN
from reliability_balance.labels import KNOWN_VERDICTS, LabelRanking, estimate_noise, rank_labels

FACES = "faces"
SETTINGS = ("symmetric-40", "pair-30", "clean", FACES)
OUR_EPOCHS, FULL_EPOCHS, FACE_EPOCHS = 8, 30, 20


class Run(NamedTuple):
    """Key of a run: a corruption, or "faces"."""

    data: str
    seed: int


def do_run(run: Run) -> dict[str, Any]:
    """Do one run of both methods, one after the other, in this process."""
    return {**run._asdict(), **(on_faces(run) if run.data == FACES else on_fashion(run))}


def on_fashion(run: Run) -> dict[str, Any]:
    """Find wrong labels by ours, and by both scores of cleanlab after many epochs and few."""
    task = CORRUPTIONS[run.data](DATA["fashion-10k"](run.seed), run.seed)
    start = clocks()
    method, ranking = inspect(task, task.network.layers(), OUR_EPOCHS, run.seed)
    seconds = clocks() - start
    rate = estimate_noise(method.targets, task.labels).rate._asdict()
    noise = {name: float(value) for name, value in rate.items()}
    noise["true"] = float(task.wrong.float().mean())
    if not task.wrong.any():
        return {"noise": noise}
    found = {"ours": {"epochs": OUR_EPOCHS, **detection(by_sample(ranking), task.wrong)}}
    times = {"ours": seconds}
    for epochs in (FULL_EPOCHS, OUR_EPOCHS):
        start = clocks()
        torch.manual_seed(run.seed)
        fit = partial(trained, partial(ON_PIXELS["cross-entropy"], budget=epochs))
        probs = cross_validated(fit, task, torch.randperm(len(task.labels)))
        training = clocks() - start
        for score in ("self_confidence", "normalized_margin"):
            start = clocks()
            quality = get_label_quality_scores(
                task.labels.numpy(), probs.double().numpy(), method=score
            )
            name = f"cleanlab {score} {epochs}"
            times[name] = training + clocks() - start
            found[name] = {"epochs": epochs, **detection(-quality, task.wrong)}
    for name, (cpu, wall) in times.items():
        found[name] |= {"cpu": round(float(cpu), 2), "wall": round(float(wall), 2)}
    return {"found": found, "noise": noise}


def clocks() -> np.ndarray:
    """Return CPU time and wall time."""
    return np.array([time.process_time(), time.perf_counter()])


def inspect(
    task: Task, encoder: nn.Sequential, epochs: int, seed: int
) -> tuple[Ours, LabelRanking]:
    """Train ours once with this encoder, then rank the labels."""
    torch.manual_seed(seed)
    method = Ours(task, epochs, is_wrapped=False)
    method.network = nn.Sequential(*encoder, method.head)
    train(method, task)
    return method, rank_labels(method.targets, task.labels)


def by_sample(ranking: LabelRanking) -> Tensor:
    """Return doubts (N,) in the order of the samples, which were all seen."""
    return ranking.doubt[ranking.sample.argsort()]


def on_faces(run: Run) -> dict[str, Any]:
    """Separate mislabelled from ambiguous rendered faces by ours."""
    faces = ambiguous_faces(run.seed)
    images = faces.images
    network = perceptron(images.shape[1])  # replaced by the CNN
    classes = faces.distributions.shape[1]
    task = Task(images, faces.labels, faces.distributions, images, faces.labels, classes, network)
    _, ranking = inspect(task, nn.Sequential(SmallCNN()), FACE_EPOCHS, run.seed)
    return judge_kinds(ranking, faces)


def judge_kinds(ranking: LabelRanking, faces: AmbiguousFaces) -> dict[str, Any]:
    """Return the AUROC of ambiguous against mislabelled faces, and of wrong labels against others.

    Other faces are neither and do not count in the first comparison.
    """
    order = ranking.sample.argsort()
    plausibility, verdict = ranking.plausibility[order], ranking.verdict[order]
    kinds = faces.kinds()
    mislabelled, ambiguous, minority = kinds

    def auroc(kind: Tensor) -> float:
        either = mislabelled | kind
        return detection(plausibility[either], kind[either])["auroc"]

    neither = ~(mislabelled | ambiguous)
    named = {"mislabelled": mislabelled, "ambiguous": ambiguous, "neither": neither}
    return {
        "ambiguous_auroc": auroc(ambiguous),
        "minority_auroc": auroc(minority),
        **{name: int(kind.sum()) for name, kind in kinds._asdict().items()},
        "wrong_label_auroc": detection(by_sample(ranking), faces.replaced)["auroc"],
        "verdicts": {
            name: [int((verdict[rows] == each).sum()) for each in KNOWN_VERDICTS]
            for name, rows in named.items()
        },
    }


def plan(data: Annotated[list[str] | None, one_of(SETTINGS)] = None, seeds: Seeds = 5) -> Plan:
    """Plan the runs."""
    runs = [Run(name, FIRST_SEED + seed) for seed in range(seeds) for name in data or SETTINGS]
    return Plan(Run, do_run, runs, report)
