"""The robust loss in two processes: one state, and the training of one process."""

import io

import pytest
import torch
from processes import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reliability_balance import RobustLoss, wrap
from reliability_balance.core import Recipe

NUM_SAMPLES, NUM_CLASSES, EPOCHS = 24, 3, 6
# Most are odd, so that the ranks' parts differ, and the last leaves one rank without a sample.
BATCH_SIZES = (13, 12, 11, 13, 9, 13, 13, 12, 1)
IMAGES = torch.randn(NUM_SAMPLES, 6, generator=torch.Generator().manual_seed(1))
LABELS = IMAGES[:, :NUM_CLASSES].argmax(-1)


def make_model():
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, NUM_CLASSES))
    return wrap(classifier, num_anchors=2)


def batches(rank, world_size):
    """This rank's part of each batch, and its share of the samples."""
    generator = torch.Generator().manual_seed(2)
    for size in BATCH_SIZES:
        index = torch.randint(NUM_SAMPLES, (size,), generator=generator)
        own = index.tensor_split(world_size)[rank]
        yield own, len(own) / size


def make_optimizer(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def train(model, criterion, rows, world_size=1, optimizer=None):
    """Losses of all steps."""
    optimizer = make_optimizer(model) if optimizer is None else optimizer
    losses = []
    for index, share in rows:
        loss = criterion(model(IMAGES[index]), LABELS[index], index)
        optimizer.zero_grad()
        (loss * share * world_size).backward()
        optimizer.step()
        losses.append(float(loss.detach()) * share * world_size)
    return torch.tensor(losses)


def state_of(model, criterion):
    """What may be compared: tensors and numbers."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    return {"model": module.state_dict(), **criterion.state_dict()["_extra_state"]}


def follow(rank, world_size):
    model = DistributedDataParallel(make_model())
    criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=Recipe(warmup=2, mixing=None))
    losses = train(model, criterion, batches(rank, world_size), world_size)
    return {"losses": losses, "progress": criterion.progress, **state_of(model, criterion)}


def mixing(rank, world_size):
    """With partners of each rank's own, from one optimiser step to the next, and a new start."""
    found = {}
    rows = list(batches(rank, world_size))
    for name, stops in (("whole", ()), ("resumed", (3, 7))):
        model = DistributedDataParallel(make_model())
        criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=Recipe(warmup=2))
        losses, start = [], 0
        for stop in (*stops, len(rows)):
            if start:
                buffer = io.BytesIO()
                torch.save((model.state_dict(), criterion.state_dict()), buffer)
                buffer.seek(0)
                model_state, state = torch.load(buffer, weights_only=True)
                model = DistributedDataParallel(make_model())
                criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=Recipe(warmup=2))
                model.load_state_dict(model_state)
                criterion.load_state_dict(state)
            for step in range(start, stop):
                torch.manual_seed(100 * step + rank)
                losses.append(train(model, criterion, rows[step : step + 1], world_size))
            start = stop
        found[name] = {"losses": torch.cat(losses), **state_of(model, criterion)}
    return found


class Step(nn.Module):
    """A model and its loss as one module, as a LightningModule is."""

    def __init__(self):
        super().__init__()
        self.model = make_model()
        self.criterion = RobustLoss(self.model, LABELS, epochs=EPOCHS, recipe=Recipe(warmup=2))

    def forward(self, index):
        return self.criterion(self.model(IMAGES[index]), LABELS[index], index)


def together(rank, world_size):
    step = DistributedDataParallel(Step())
    optimizer = make_optimizer(step)
    for index, share in batches(rank, world_size):
        loss = step(index) * share * world_size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "buffers": [name for name, _ in step.named_buffers()],
        **state_of(step.module.model, step.module.criterion),
    }


def refuse(rank, world_size):
    """Both ranks count from 0, and name other samples than theirs."""
    model = make_model()
    criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=Recipe(warmup=2))
    index = torch.arange(12) + 12 * rank
    try:
        criterion(model(IMAGES[index]), LABELS[index], torch.arange(12))
    except (ValueError, RuntimeError) as error:
        return {"error": type(error).__name__, "progress": criterion.progress}
    return {"error": "none", "progress": criterion.progress}


def growing(rank, world_size, shell=DistributedDataParallel):
    """Train on two thirds of the samples, add a class and the other third, and go on."""
    model, recipe = make_model(), Recipe(warmup=2, mixing=None)
    criterion = RobustLoss(model, LABELS[:16], epochs=EPOCHS, recipe=recipe)
    optimizer = make_optimizer(model)
    rows = list(batches(rank, world_size))
    early = [(index % 16, share) for index, share in rows[:5]]
    losses = [train(shell(model), criterion, early, world_size, optimizer)]
    torch.manual_seed(rank)  # the new weights of rank 0 are those of all
    criterion.add_classes(1, optimizer)
    criterion.add_samples(LABELS[16:])
    losses.append(train(shell(model), criterion, rows[5:], world_size, optimizer))
    return {"losses": torch.cat(losses), **state_of(model, criterion)}


SCENARIOS = (follow, mixing, together, refuse, growing)


def all_scenarios(rank, world_size):
    return {scenario.__name__: scenario(rank, world_size) for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes gave for each scenario; they start once, which takes long."""
    return run_ranks(all_scenarios, 2, tmp_path_factory.mktemp("ranks"), 2)


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, dict):
            assert_same(value, second[name], **tolerance)
        elif isinstance(value, torch.Tensor):
            torch.testing.assert_close(second[name], value, msg=name, **tolerance)
        else:
            assert second[name] == value, name


def test_two_processes_follow_one(ranks):
    model = make_model()
    criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=Recipe(warmup=2, mixing=None))
    alone = train(model, criterion, batches(0, 1))
    first, second = (dict(rank["follow"]) for rank in ranks)
    mean = (first.pop("losses") + second.pop("losses")) / 2
    torch.testing.assert_close(mean, alone, rtol=0, atol=1e-5)
    assert_same(first, second, rtol=0, atol=0)
    expected = {"progress": sum(BATCH_SIZES) / NUM_SAMPLES, **state_of(model, criterion)}
    assert_same(expected, first, rtol=0, atol=1e-5)


def test_two_processes_follow_one_that_grows(ranks):
    expected = growing(0, 1, shell=lambda model: model)
    first, second = (dict(rank["growing"]) for rank in ranks)
    mean = (first.pop("losses") + second.pop("losses")) / 2
    torch.testing.assert_close(mean, expected.pop("losses"), rtol=0, atol=1e-5)
    assert_same(first, second, rtol=0, atol=0)
    assert_same(expected, first, rtol=0, atol=1e-5)


def test_mixing_keeps_one_state_and_goes_on_to_the_bit(ranks):
    first, second = (rank["mixing"] for rank in ranks)
    assert not torch.equal(first["whole"]["losses"], second["whole"]["losses"])
    for rank in (first, second):
        assert_same(rank["whole"], rank["resumed"], rtol=0, atol=0)
        del rank["whole"]["losses"]
    assert_same(first["whole"], second["whole"], rtol=0, atol=0)


def test_as_a_part_of_what_is_distributed_it_has_nothing_to_send(ranks):
    first, second = (rank["together"] for rank in ranks)
    assert first["buffers"] == ["module.model.balancer.class_prior"]
    assert_same(first, second, rtol=0, atol=0)


def test_an_index_that_restarts_on_each_rank_is_refused_by_all(ranks):
    for rank in ranks:
        assert rank["refuse"] == {"error": "ValueError", "progress": 0.0}
