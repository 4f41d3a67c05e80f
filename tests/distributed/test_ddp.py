"""Two real processes on halved batches follow one process on whole batches."""

import pytest
import torch
from processes import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reliability_balance import ReliabilityLoss, wrap

STEPS, BATCH_SIZE = 8, 12


def make_model(recipe):
    """A wrapped classifier without batch norm, whose statistics depend on the batch."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return wrap(classifier, recipe=recipe, head="linear", num_anchors=3)


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        images = torch.randn(BATCH_SIZE, 6, generator=generator)
        yield images, torch.randint(3, (BATCH_SIZE,), generator=generator)


def train(model, recipe, part):
    """Losses of all steps on one part of each batch, and the weights at the end."""
    criterion = ReliabilityLoss(recipe=recipe)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for images, labels in batches():
        loss = criterion(model(images[part]), labels[part]).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    module = model.module if isinstance(model, DistributedDataParallel) else model
    return {"losses": torch.tensor(losses), "state": module.state_dict()}


def train_rank(rank, recipe, world_size):
    model = DistributedDataParallel(make_model(recipe), find_unused_parameters=False)
    share = BATCH_SIZE // world_size
    return train(model, recipe, slice(rank * share, (rank + 1) * share))


@pytest.mark.parametrize("recipe", ["robust", "paper"])
def test_two_processes_follow_one(recipe, tmp_path):
    alone = train(make_model(recipe), recipe, slice(None))
    ranks = run_ranks(train_rank, 2, tmp_path, recipe, 2)
    together = torch.stack([rank["losses"] for rank in ranks]).mean(0)
    torch.testing.assert_close(together, alone["losses"], rtol=0, atol=1e-5)
    for name, value in alone["state"].items():
        for rank in ranks:
            torch.testing.assert_close(rank["state"][name], value, rtol=0, atol=1e-5)
