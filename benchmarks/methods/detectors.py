"""Out-of-distribution scores of one trained network: ours, and those of others.

Those of others are pytorch-ood's with its default settings, which follow the papers, but for cosine
similarity to class means. They are fitted on the embeddings of the training samples and the labels
as given. Scores are higher for stranger inputs.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from pytorch_ood.detector import (
    GEN,
    KNN,
    NCI,
    EnergyBased,
    Mahalanobis,
    MaxLogit,
    MaxSoftmax,
    ReAct,
    ViM,
)
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reports.out_of_distribution import OURS
from reliability_balance import BalancerOutput
from reliability_balance import functional as RF
from reliability_balance.calibration import Familiarity

Score = Callable[[BalancerOutput], Tensor]


class Trained(NamedTuple):
    """Outputs for the training samples, their labels as given, and the primary head."""

    output: BalancerOutput
    labels: Tensor
    head: nn.Linear


def scores(trained: Trained) -> Iterator[tuple[str, Score]]:
    """Each method by its name, fitted."""
    yield OURS, Familiarity(trained.output.embedding.shape[1]).fit(trained.output).distance
    yield from _of_others(trained)
    # What the balancer offers besides.
    yield "nearest anchor", lambda output: _given(output.distances).amin((1, 2))
    yield "anchors, log-sum-exp", lambda output: -(-10 * _given(output.distances)).logsumexp((1, 2))
    yield "branches' disagreement", _disagreement
    yield "corrected entropy", lambda output: RF.normalized_entropy(output.corrected)


def _of_others(trained: Trained) -> Iterator[tuple[str, Score]]:
    output, labels, head = trained
    weight, bias = head.weight.detach(), head.bias.detach()
    embedding = output.embedding
    # Without the classes that are never predicted.
    predicted = output.log_probs.argmax(1).unique(return_inverse=True)[1]
    yield "MSP", lambda output: MaxSoftmax.score(output.logits)
    yield "max logit", lambda output: MaxLogit.score(output.logits)
    yield "energy", lambda output: EnergyBased.score(output.logits)
    yield "GEN", lambda output: GEN.score(output.logits)
    react = ReAct(None, head).fit_feature_maps(embedding, labels)
    yield "ReAct", lambda output: react.predict_feature_maps(output.embedding)
    of_embeddings = {
        "KNN, k = 50": KNN(None).fit_features(embedding, labels),
        "KNN, k = 1": KNN(None, k=1).fit_features(embedding, labels),
        "Mahalanobis": Mahalanobis(None).fit_features(embedding, labels),
        "Mahalanobis, predicted classes": Mahalanobis(None).fit_features(embedding, predicted),
        "ViM": ViM(None, embedding.shape[1] // 2, weight, bias).fit_features(embedding, labels),
        "NCI": NCI(None, head).fit_features(embedding),
    }
    for name, detector in of_embeddings.items():
        yield name, partial(_of_embedding, detector)
    sums = torch.zeros(len(weight), embedding.shape[1]).index_add_(0, labels, embedding)
    means = F.normalize(sums, dim=1)
    yield (
        "cosine to class means",
        lambda output: -(F.normalize(output.embedding, dim=1) @ means.T).amax(1),
    )


def _of_embedding(detector: Any, output: BalancerOutput) -> Tensor:
    score: Tensor = detector.predict_features(output.embedding)
    return score


def _given(distances: Tensor | None) -> Tensor:
    assert distances is not None  # for the type checker: these balancers have anchors
    return distances


def _disagreement(output: BalancerOutput) -> Tensor:
    """Jensen-Shannon divergence of the primary and the anchor branch, of each sample."""
    assert output.anchor is not None
    both = torch.stack([output.primary, output.anchor]).clamp_min(1e-12)
    middle = both.mean(0)
    return (both * (both / middle).log()).sum(-1).mean(0)
