"""Two and four real processes follow one process that sees their batches whole."""

import pytest
import torch
from processes import run_ranks
from short_targets import short_targets
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.labels import mix

# The last batch leaves ranks without a sample, and no size divides by 4.
BATCH_SIZES = (13, 13, 10, 13, 9, 13, 13, 2)
NUM_SAMPLES = 20  # fewer than are drawn, so that some occur twice in a batch, on several ranks


def make_model(recipe):
    """A wrapped classifier without batch norm, whose statistics depend on the batch."""
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return wrap(classifier, recipe=recipe, head="linear", attention="single", num_anchors=3)


def batches(rank, world_size):
    """This rank's part of each batch, and its share of the samples."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(NUM_SAMPLES, 6, generator=generator)
    labels = torch.randint(3, (NUM_SAMPLES,), generator=generator)
    for size in BATCH_SIZES:
        index = torch.randint(NUM_SAMPLES, (size,), generator=generator)
        own = index.tensor_split(world_size)[rank]
        yield own, images[own], labels[own], len(own) / size


def train(model, recipe, rank=0, world_size=1):
    """Losses of all steps on one part of each batch, and the state at the end."""
    criterion = ReliabilityLoss(recipe=recipe)
    targets = short_targets(NUM_SAMPLES, 3, warmup=2, held_back=0.3)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for index, images, labels, share in batches(rank, world_size):
        output = model(images)
        soft = targets(index, labels, output.corrected)
        # DDP takes the mean over ranks, which is that over samples if the loss counts them.
        loss = criterion(output, soft).total * share * world_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    module = model.module if isinstance(model, DistributedDataParallel) else model
    state = {"model": module.state_dict(), "targets": targets.state_dict()}
    return {"losses": torch.tensor(losses), **state}


def train_rank(rank, recipe, world_size):
    model = DistributedDataParallel(make_model(recipe), find_unused_parameters=False)
    return train(model, recipe, rank, world_size)


@pytest.mark.parametrize(("recipe", "world_size"), [("paper", 2), ("robust", 4)])
def test_processes_follow_one(recipe, world_size, tmp_path):
    alone = train(make_model(recipe), recipe)
    ranks = run_ranks(train_rank, world_size, tmp_path, recipe, world_size)
    together = torch.stack([rank["losses"] for rank in ranks]).mean(0)
    torch.testing.assert_close(together, alone["losses"], rtol=0, atol=1e-5)
    for state in ("model", "targets"):
        for name, value in alone[state].items():
            for rank in ranks:
                torch.testing.assert_close(rank[state][name], value, rtol=0, atol=1e-5)
                assert torch.equal(rank[state][name], ranks[0][state][name])


def mixed_gradients(rank, find_unused_parameters):
    """Gradients of two steps with DDP, and of a copy without it."""
    alone = make_model("robust")
    inside = make_model("robust")
    model = DistributedDataParallel(inside, find_unused_parameters=find_unused_parameters)
    criterion, found = ReliabilityLoss(), []
    for step in range(2):
        generator = torch.Generator().manual_seed(10 * step + rank)
        images, labels = torch.randn(8, 6, generator=generator), torch.arange(8) % 3
        for called, balancer in ((model, inside.balancer), (alone, alone.balancer)):
            torch.manual_seed(100 + rank)  # of the partners
            output = called(images)
            mixed = mix(balancer, output, torch.eye(3)[labels], concentration=1.0)
            called.zero_grad()
            criterion(*mixed).total.backward()
        found.append(
            {
                "together": {name: each.grad for name, each in inside.named_parameters()},
                "alone": {name: each.grad for name, each in alone.named_parameters()},
            }
        )
    return [
        {kind: {n: g.clone() for n, g in each.items() if g is not None} for kind, each in s.items()}
        for s in found
    ]


@pytest.mark.parametrize("find_unused_parameters", [False, True])
def test_mixed_heads_get_the_mean_gradient(find_unused_parameters, tmp_path):
    """Also where the balancer is called outside of DDP's forward, as mixing does."""
    ranks = run_ranks(mixed_gradients, 2, tmp_path, find_unused_parameters)
    for first, second in zip(*ranks, strict=True):
        assert first["together"].keys() == first["alone"].keys()
        assert any(name.startswith("balancer") for name in first["together"])
        for name, value in first["together"].items():
            assert torch.equal(value, second["together"][name]), name
            mean = (first["alone"][name] + second["alone"][name]) / 2
            torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)
            if name.startswith("balancer") and "attention" not in name:
                assert not torch.equal(first["alone"][name], second["alone"][name]), name
