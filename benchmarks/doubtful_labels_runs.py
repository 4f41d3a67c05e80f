"""Find wrong labels by one training of ours and by five of cleanlab: scores and time."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores
from methods import METHODS, Method, Robust
from noisy_data import CORRUPTIONS, Task
from robustness_runs import cross_validated, train
from shared_encoder import make_encoder
from sklearn.metrics import average_precision_score, roc_auc_score
from tasks import DATA
from torch import Tensor, nn

from examples.arbex.encoders import SmallCNN
from examples.arbex.faces.face_table import TRAIN
from examples.arbex.rendering.rendered_faces import PRESETS, rendered_faces
from reliability_balance.labels import (
    KNOWN_VERDICTS,
    LabelRanking,
    RefurbishedTargets,
    estimate_noise,
    rank_labels,
)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FACES = "faces"
OUR_EPOCHS, FULL_EPOCHS, FACE_EPOCHS = 8, 30, 20
# A face is ambiguous if its most probable class has less than this share; a label is wrong if it
# has less than that share.
AMBIGUOUS_BELOW, WRONG_BELOW = 0.6, 0.05
# A harder case: a label drawn from the face's own distribution that is not its most probable class.
MINORITY_BELOW = 0.75


class Run(NamedTuple):
    """Key of a run: a corruption of noisy_data.py, or "faces"."""

    data: str
    seed: int


class Seconds(NamedTuple):
    """CPU time and wall time."""

    cpu: float
    wall: float


def do_run(run: Run) -> dict[str, Any]:
    """Do one run of both methods, one after the other, in this process."""
    torch.set_num_threads(1)
    return {**run._asdict(), **(_faces(run) if run.data == FACES else _fashion(run))}


def _fashion(run: Run) -> dict[str, Any]:
    task = CORRUPTIONS[run.data](DATA["fashion-10k"](run.seed), run.seed)
    wrong = task.truth.argmax(1) != task.labels
    (targets, ranking), seconds = timed(
        inspect, task, make_encoder(task.inputs.shape[1]), OUR_EPOCHS, run.seed
    )
    rate = {name: float(value) for name, value in _rate(targets, task.labels)}
    noise = {**rate, "true": float(wrong.float().mean())}
    if not wrong.any():
        return {"noise": noise}
    scores = _finding(wrong, doubt_by_sample(ranking))
    found: dict[str, dict[str, float]] = {}
    found["ours"] = {"epochs": OUR_EPOCHS, **scores, **_rounded(seconds)}
    for epochs in (FULL_EPOCHS, OUR_EPOCHS):
        probs, training = timed(out_of_sample, task, epochs, run.seed)
        for method in ("self_confidence", "normalized_margin"):
            quality, judging = timed(_quality, task.labels, probs, method)
            seconds = Seconds(training.cpu + judging.cpu, training.wall + judging.wall)
            scores = _finding(wrong, -quality)
            found[f"cleanlab {method} {epochs}"] = {
                "epochs": epochs,
                **scores,
                **_rounded(seconds),
            }
    return {"found": found, "noise": noise}


def _rate(targets: RefurbishedTargets, labels: Tensor) -> Iterable[tuple[str, Tensor]]:
    return estimate_noise(targets, labels).rate._asdict().items()


def inspect(
    task: Task, encoder: nn.Sequential, epochs: int, seed: int
) -> tuple[RefurbishedTargets, LabelRanking]:
    """Train once with the robust recipe, then rank the labels."""
    torch.manual_seed(seed)
    method = Robust(task)
    method.encoder = encoder
    train(method, task, epochs)
    return method.targets, rank_labels(method.targets, task.labels)


def out_of_sample(task: Task, epochs: int, seed: int) -> Tensor:
    """Return out-of-sample probabilities (N, C) of the network with cross-entropy, 5-fold."""

    def fit(part: Task) -> Method:
        method = METHODS["cross-entropy"](part)
        train(method, part, epochs)
        return method

    torch.manual_seed(seed)
    return cross_validated(fit, task, torch.randperm(len(task.labels)))


def doubt_by_sample(ranking: LabelRanking) -> np.ndarray[Any, Any]:
    """Return doubts (N,) in the order of the samples, which were all seen."""
    doubt: np.ndarray[Any, Any] = ranking.doubt[ranking.sample.argsort()].numpy()
    return doubt


def _quality(labels: Tensor, probs: Tensor, method: str) -> np.ndarray[Any, Any]:
    quality: np.ndarray[Any, Any] = get_label_quality_scores(
        labels.numpy(), probs.double().numpy(), method=method
    )
    return quality


def _finding(wrong: Tensor, doubt: np.ndarray[Any, Any]) -> dict[str, float]:
    return {
        "auroc": float(roc_auc_score(wrong.numpy(), doubt)),
        "ap": float(average_precision_score(wrong.numpy(), doubt)),
    }


def timed(
    call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> tuple[Result, Seconds]:
    """Call a function and measure its time."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call(*args, **kwargs)
    return result, Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def _rounded(seconds: Seconds) -> dict[str, float]:
    return {name: round(value, 2) for name, value in seconds._asdict().items()}


def _faces(run: Run) -> dict[str, Any]:
    settings = replace(
        PRESETS["easy"],
        num_faces=6000,
        image_size=48,
        validation_share=0.02,
        test_share=0.02,
        ambiguity=0.6,
        label_noise=0.2,
        seed=run.seed,
    )
    table = rendered_faces(settings).subset(TRAIN)
    assert table.distributions is not None and table.true_labels is not None  # noqa: PT018
    images = torch.stack([table.images[row] for row in range(len(table))]).float() / 127.5 - 1
    num_classes = len(table.class_names)
    task = Task(images, table.labels, table.distributions, images, table.labels, num_classes)
    _, ranking = inspect(task, nn.Sequential(SmallCNN()), FACE_EPOCHS, run.seed)
    return judge_kinds(ranking, table.labels, table.true_labels, table.distributions)


def judge_kinds(
    ranking: LabelRanking, labels: Tensor, before_noise: Tensor, distributions: Tensor
) -> dict[str, Any]:
    """Return the AUROC of ambiguous against mislabelled faces, and of wrong labels against others.

    Mislabelled: noise replaced the label by one of (almost) no probability. Ambiguous: the label
    was drawn from the face's own distribution, which has no clear maximum. Other faces are neither
    and do not count in the first comparison.
    """
    order = ranking.sample.argsort()
    plausibility, verdict = ranking.plausibility[order], ranking.verdict[order]
    replaced = labels != before_noise
    share = distributions.gather(1, labels.unsqueeze(1)).squeeze(1)
    likeliest = distributions.amax(1)
    mislabelled = replaced & (share < WRONG_BELOW)
    ambiguous = ~replaced & (likeliest < AMBIGUOUS_BELOW)
    minority = ~replaced & (likeliest < MINORITY_BELOW) & (share < likeliest)

    def auroc(kind: Tensor) -> float:
        either = mislabelled | kind
        return float(roc_auc_score(kind[either].numpy(), plausibility[either].numpy()))

    return {
        "ambiguous_auroc": auroc(ambiguous),
        "minority_auroc": auroc(minority),
        "mislabelled": int(mislabelled.sum()),
        "ambiguous": int(ambiguous.sum()),
        "minority": int(minority.sum()),
        "wrong_label_auroc": _finding(replaced, doubt_by_sample(ranking))["auroc"],
        "verdicts": {
            name: [int((verdict[rows] == each).sum()) for each in KNOWN_VERDICTS]
            for name, rows in (
                ("mislabelled", mislabelled),
                ("ambiguous", ambiguous),
                ("neither", ~(mislabelled | ambiguous)),
            )
        },
    }
