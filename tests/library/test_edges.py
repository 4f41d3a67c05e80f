"""The whole training step at the edges: sizes, batches, norms and classes."""

import pytest
import torch
from short_targets import short_targets

from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance.labels import mix

SHAPES = [(2, 0), (2, 1), (3, 2), (3, 20)]  # classes and anchors


def train_step(balancer, embedding, labels):
    """Targets, mixing and loss, and the gradients of all; everything must be finite."""
    targets = short_targets(9, balancer.num_classes, warmup=0)
    output = balancer(embedding)
    soft = targets(torch.arange(len(labels)), labels, output.corrected)
    mixed = mix(balancer, output, soft, concentration=1.0)
    criterion = ReliabilityLoss(recipe=balancer.recipe)
    judged = ((output, labels), (output, soft), (mixed.output, mixed.targets))
    losses = [criterion(*each) for each in judged]
    assert all(bool(torch.isfinite(term)) for terms in losses for term in terms)
    sum(terms.total for terms in losses).backward()
    for name, parameter in balancer.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()), name
    return output


@pytest.mark.parametrize("recipe", ["robust", "paper"])
@pytest.mark.parametrize(("num_classes", "num_anchors"), SHAPES)
@pytest.mark.parametrize("size", [0, 1, 5])
def test_sizes_and_batches_of_one_class(recipe, num_classes, num_anchors, size):
    balancer = ReliabilityBalancer(
        6,
        num_classes,
        num_anchors=num_anchors,
        recipe=recipe,
        head="linear",
        attention="single",
        head_dim=4,
    )
    labels = torch.full((size,), num_classes - 1)
    output = train_step(balancer, torch.randn(size, 6), labels)
    assert output.corrected.shape == (size, num_classes)
    torch.testing.assert_close(output.corrected.sum(-1), torch.ones(size))


@pytest.mark.parametrize("recipe", ["robust", "paper"])
@pytest.mark.parametrize("norm", [0.0, 1e-30, 1e-6, 1e6, 1e15])
def test_huge_and_tiny_norms(recipe, norm):
    balancer = ReliabilityBalancer(
        6, 3, num_anchors=2, recipe=recipe, head="linear", attention="single", head_dim=4
    )
    output = train_step(balancer, torch.randn(5, 6) * norm, torch.tensor([0, 1, 2, 2, 1]))
    torch.testing.assert_close(output.corrected.sum(-1), torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_largest_values_of_half_precision(dtype):
    balancer = ReliabilityBalancer(6, 3, metric="euclidean", attention="off", head=None).to(dtype)
    largest = torch.full((2, 6), 6e4, dtype=dtype)
    output = balancer(largest, torch.tensor([[6e4, -6e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype))
    assert bool(torch.isfinite(output.corrected).all())


def test_a_batch_of_one_needs_a_head_without_batch_norm():
    balancer = ReliabilityBalancer(6, 3, num_anchors=2, head="mlp")
    with pytest.raises(ValueError, match="head"):
        balancer(torch.randn(1, 6))
    assert balancer.eval()(torch.randn(1, 6)).corrected.shape == (1, 3)
