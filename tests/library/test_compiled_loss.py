"""A loss whose equations are compiled, against one whose are not."""

import copy
import pickle

import pytest
import torch

from reliability_balance import ReliabilityBalancer, RobustLoss

COUNT, CLASSES, WIDTH = 90, 3, 8


def trained(backend=None):
    """Train through release of held-back labels, mixing and refurbishment, in uneven batches."""
    torch.manual_seed(0)
    labels = torch.arange(COUNT) % CLASSES
    inputs = torch.randn(COUNT, WIDTH) + 4 * torch.nn.functional.one_hot(labels, WIDTH)
    model = ReliabilityBalancer(WIDTH, CLASSES)
    criterion = RobustLoss(model, labels, epochs=14)
    if backend is not None:
        criterion.compile(backend=backend, fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(12):
        for index in torch.randperm(COUNT).split(40):
            loss = criterion(model(inputs[index]), labels[index], index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, criterion, (model, inputs, labels)


@pytest.fixture(scope="module")
def compiled():
    return trained("eager")


def test_a_training_by_a_compiled_loss_is_that_of_a_plain_one(compiled):
    losses, criterion, _ = trained()
    assert compiled[0] == pytest.approx(losses, rel=1e-5)
    for name, expected in criterion.targets.state_dict().items():
        torch.testing.assert_close(compiled[1].targets.state_dict()[name], expected)


def test_values_are_still_checked(compiled):
    _, criterion, (model, inputs, labels) = compiled
    index = torch.arange(20)
    with pytest.raises(ValueError, match="`labels` must be those"):
        criterion(model(inputs[index]), (labels[index] + 1) % CLASSES, index)


def test_a_compiled_loss_can_be_copied_and_pickled(compiled):
    """On equal terms: each copy has a model of its own."""
    _, criterion, (_, inputs, labels) = compiled
    index, losses = torch.arange(20), []
    for each in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        torch.manual_seed(1)
        losses.append(each(each.balancer(inputs[index]), labels[index], index).item())
    assert losses[0] == losses[1]
