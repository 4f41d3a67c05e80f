"""Blends of embeddings and targets."""

import pytest
import torch
from torch import nn

from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance.labels import mix


def make_balancer(head="linear", attention="tokens"):
    torch.manual_seed(0)
    return ReliabilityBalancer(5, 4, head=head, num_anchors=2, attention=attention, head_dim=4)


def blended(balancer, embedding, targets, logits=None, *, concentration=1.0, **options):
    return mix(
        balancer,
        balancer(embedding, logits, **options),
        targets,
        concentration=concentration,
    )


def test_embedding_and_targets_are_blended_alike():
    """With a one-hot embedding as its own target, the blends must be the same points."""
    points = torch.eye(4)
    embedding = nn.functional.pad(points, (0, 1))
    mixed = blended(make_balancer(), embedding, points)
    torch.testing.assert_close(mixed.output.embedding[:, :4], mixed.targets)
    torch.testing.assert_close(mixed.targets.sum(-1), torch.ones(4))
    assert (mixed.targets.diagonal() >= 0.5).all()


@pytest.mark.parametrize("attention", ["tokens", "off"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 5)])
def test_gradient_reaches_the_embedding(shape, attention):
    embedding = torch.randn(shape, requires_grad=True)
    targets = torch.randn(6, 4).softmax(-1)
    ReliabilityLoss()(
        *blended(make_balancer(attention=attention), embedding, targets)
    ).total.backward()
    assert embedding.grad.abs().sum() > 0
    assert torch.isfinite(embedding.grad).all()


def test_kept_logits_are_blended_with_the_same_shares():
    points = torch.eye(4)
    embedding = nn.functional.pad(points, (0, 1))
    mixed = blended(make_balancer(head=None), embedding, points, 3 * points)
    torch.testing.assert_close(mixed.output.logits, 3 * mixed.targets)


def test_a_small_concentration_blends_little():
    balancer = make_balancer()
    mixed = blended(balancer, torch.randn(4, 5), torch.eye(4), concentration=0.01)
    torch.testing.assert_close(mixed.targets, torch.eye(4), rtol=0, atol=1e-2)


def test_tokens_are_blended_one_by_one():
    """Token t of a blend is that of its two samples; the blended mean follows."""
    points = torch.eye(4)
    tokens = torch.stack([nn.functional.pad(scale * points, (0, 1)) for scale in (1.0, 2.0)], 1)
    mixed = blended(make_balancer(), tokens, points)
    for place, scale in enumerate((1.0, 2.0)):
        found = mixed.output.tokens[:, place, :4]
        torch.testing.assert_close(found, scale * mixed.targets)
    torch.testing.assert_close(mixed.output.embedding[:, :4], 1.5 * mixed.targets)


def test_padding_beside_a_partners_token_counts_as_the_mean():
    points = torch.eye(4)
    tokens = nn.functional.pad(points, (0, 1)).unsqueeze(1).repeat(1, 3, 1)
    mask = torch.tensor([[True, True, True], [True, False, False]]).repeat(2, 1)
    tokens[~mask] = 1e3  # what padding holds must not matter
    mixed = blended(make_balancer(), tokens, points, token_mask=mask)
    assert bool((mixed.output.token_mask >= mask).all())
    shown = mixed.output.tokens[mixed.output.token_mask]
    expected = mixed.targets.unsqueeze(1).expand(-1, 3, -1)[mixed.output.token_mask]
    torch.testing.assert_close(shown[:, :4], expected)
    torch.testing.assert_close(mixed.output.embedding[:, :4], mixed.targets)


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
        blended(make_balancer(), *arguments, **options)


def test_what_is_no_output_is_refused():
    with pytest.raises(TypeError, match=r"`output` must be a BalancerOutput, .*; got Tensor"):
        mix(make_balancer(), torch.randn(2, 5), torch.rand(2, 4), concentration=1.0)
