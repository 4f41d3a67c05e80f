"""Blends of embeddings and targets."""

import pytest
import torch
from torch import nn

from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance.mixing import mix


def make_balancer(head="linear"):
    torch.manual_seed(0)
    return ReliabilityBalancer(5, 4, head=head, num_anchors=2, head_dim=4)


def test_embedding_and_targets_are_blended_alike():
    """With a one-hot embedding as its own target, the blends must be the same points."""
    points = torch.eye(4)
    embedding = nn.functional.pad(points, (0, 1))
    mixed = mix(make_balancer(), embedding, points)
    torch.testing.assert_close(mixed.output.embedding[:, :4], mixed.targets)
    torch.testing.assert_close(mixed.targets.sum(-1), torch.ones(4))
    assert (mixed.targets.diagonal() >= 0.5).all()


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 5)])
def test_gradient_reaches_the_embedding(shape):
    embedding = torch.randn(shape, requires_grad=True)
    targets = torch.randn(6, 4).softmax(-1)
    ReliabilityLoss()(*mix(make_balancer(), embedding, targets)).total.backward()
    assert embedding.grad.abs().sum() > 0
    assert torch.isfinite(embedding.grad).all()


def test_kept_logits_are_blended_with_the_same_shares():
    points = torch.eye(4)
    embedding = nn.functional.pad(points, (0, 1))
    mixed = mix(make_balancer(head=None), embedding, points, 3 * points)
    torch.testing.assert_close(mixed.output.logits, 3 * mixed.targets)


def test_a_small_concentration_blends_little():
    mixed = mix(make_balancer(), torch.randn(4, 5), torch.eye(4), concentration=1e-3)
    torch.testing.assert_close(mixed.targets, torch.eye(4), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            (torch.randn(2, 5), torch.rand(2, 3)),
            {},
            ValueError,
            r"`targets` must have shape \(2, 4\)",
        ),
        ((torch.randn(2, 5), torch.tensor([0, 1])), {}, TypeError, "`targets` must have a float"),
        (
            (torch.randn(2, 5), torch.rand(2, 4)),
            {"concentration": 0.0},
            ValueError,
            "`concentration` must be greater than 0",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        mix(make_balancer(), *arguments, **options)
