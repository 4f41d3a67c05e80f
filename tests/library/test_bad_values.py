"""NaN and infinity in embeddings, images, logits, labels and weights are named where they enter."""

import pytest
import torch
from tiny_training import tiny_recipe, train_tiny
from torch import nn

from reliability_balance import CenterLoss, ReliabilityBalancer, ReliabilityLoss, wrap
from reliability_balance import functional as RF
from reliability_balance.calibration import (
    Abstention,
    Familiarity,
    PredictionSets,
    TemperatureScaling,
    VectorScaling,
)
from reliability_balance.labels import RefurbishedTargets

BAD = (torch.nan, torch.inf)
LABELS = torch.tensor([0, 1, 2, 1])


def spoiled(tensor, bad):
    """One value among good ones."""
    tensor = tensor.clone()
    tensor.view(-1)[tensor.numel() // 2] = bad
    return tensor


def balancer(num_anchors=2, **options):
    return ReliabilityBalancer(8, 3, num_anchors=num_anchors, **options)


def logits(bad):
    return spoiled(torch.randn(4, 3), bad)


def embedding(bad):
    return spoiled(torch.randn(4, 8), bad)


ENTRANCES = {
    "embedding": ("embedding", lambda bad: balancer()(embedding(bad))),
    "tokens": ("embedding", lambda bad: balancer()(spoiled(torch.randn(4, 5, 8), bad))),
    "kept logits": (
        "primary_logits",
        lambda bad: balancer(head=None)(torch.randn(4, 8), logits(bad)),
    ),
    "image": (
        "embedding",
        lambda bad: wrap(nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 3)))(
            embedding(bad).view(4, 2, 4)
        ),
    ),
    "anchors' start": (
        "embedding",
        lambda bad: balancer().initialize_anchors(embedding(bad), LABELS),
    ),
    "distances": (
        "embedding",
        lambda bad: RF.anchor_distances(embedding(bad), torch.randn(3, 2, 8)),
    ),
    "centre loss": (
        "embedding",
        lambda bad: CenterLoss()(embedding(bad), torch.randn(3, 2, 8), LABELS),
    ),
    "soft labels": (
        "labels",
        lambda bad: ReliabilityLoss()(
            balancer()(torch.randn(4, 8)), spoiled(torch.full((4, 3), 1 / 3), bad)
        ),
    ),
    "class weights": (
        "class_weights",
        lambda bad: ReliabilityLoss(class_weights=spoiled(torch.ones(3), bad)),
    ),
    "predictions": (
        "probs",
        lambda bad: RefurbishedTargets(9, 3)(torch.arange(4), LABELS, logits(bad)),
    ),
    "temperature": ("log_probs", lambda bad: TemperatureScaling().fit(logits(bad), LABELS)),
    "vector scaling": ("log_probs", lambda bad: VectorScaling(3).fit(logits(bad), LABELS)),
    "prediction sets": ("log_probs", lambda bad: PredictionSets().fit(logits(bad), LABELS)),
    "abstention": (
        "confidence",
        lambda bad: Abstention().fit(spoiled(torch.rand(9), bad), torch.ones(9, dtype=torch.bool)),
    ),
    "familiarity": (
        "output.embedding",
        lambda bad: Familiarity(8).fit(balancer(validate_args=False)(embedding(bad))),
    ),
}


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_it_is_named(entrance, bad):
    argument, enter = ENTRANCES[entrance]
    with pytest.raises(ValueError, match=f"`{argument}` must"):
        enter(bad)


def test_minus_infinity_rules_a_class_out():
    given = torch.randn(4, 3)
    given[:, 2] = -torch.inf
    output = balancer(head=None, num_anchors=0, attention="off")(torch.randn(4, 8), given)
    assert output.corrected[:, 2].tolist() == [0.0] * 4


def test_training_stops_before_a_bad_loss_reaches_the_weights(tmp_path, monkeypatch):
    loss_of = ReliabilityLoss.compute

    def spoil(self, output, labels, log_prior):
        terms = loss_of(self, output, labels, log_prior)
        return terms._replace(total=terms.total * torch.nan)

    folder = train_tiny(tmp_path, tiny_recipe(epochs=1))
    before = folder.checkpoint.read_bytes(), folder.model.read_bytes()
    monkeypatch.setattr(ReliabilityLoss, "compute", spoil)
    with pytest.raises(ValueError, match="must be finite; got nan in epoch 2, batch 1"):
        train_tiny(tmp_path, tiny_recipe(epochs=2))
    assert (folder.checkpoint.read_bytes(), folder.model.read_bytes()) == before
