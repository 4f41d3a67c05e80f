"""A training killed three times, resumed each time by another number of ranks."""

import os
import signal
from multiprocessing import get_context

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from reliability_balance import RobustLoss, wrap
from reliability_balance.core import Recipe

NUM_SAMPLES, NUM_CLASSES, BATCH_SIZE, EPOCHS = 60, 6, 12, 6
STEPS_PER_EPOCH = NUM_SAMPLES // BATCH_SIZE
STEPS = EPOCHS * STEPS_PER_EPOCH
# Number of ranks, and the step in which the last of them is killed; the final ones end.
RUNS = ((4, 7), (2, 14), (1, 22), (3, None))
SAVED_EVERY = 3
SECONDS = 120  # for one run; it takes three
GENERATOR = torch.Generator().manual_seed(1)
TRUE = torch.arange(NUM_SAMPLES) % NUM_CLASSES
IMAGES = torch.randn(NUM_SAMPLES, 8, generator=GENERATOR) + 4 * torch.eye(8)[TRUE]
LABELS = TRUE.where(torch.arange(NUM_SAMPLES) % 5 > 0, (TRUE + 1) % NUM_CLASSES)
# What is stored of a sample: all classes, or half of them.
KINDS = {"whole": {}, "sparse": {"kept": 3, "dtype": torch.float32}}


class Training:
    """Model, criterion and optimizer; nothing depends on how a batch is divided."""

    def __init__(self, options):
        torch.manual_seed(0)
        classifier = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, NUM_CLASSES))
        model = wrap(classifier, num_anchors=2)
        recipe = Recipe(warmup=2, mixing=None)
        self.criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=recipe, **options)
        trained = [each for each in model.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.02)
        self.parts = {"model": model, "criterion": self.criterion, "optimizer": self.optimizer}
        self.model = DistributedDataParallel(model) if distributed.is_initialized() else model
        self.losses = []

    def step(self, index):
        loss = self.criterion(self.model(IMAGES[index]), LABELS[index], index)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss = loss.detach().clone()
        if distributed.is_initialized():
            distributed.all_reduce(loss)
            loss /= distributed.get_world_size()
        self.losses.append(float(loss))

    def state_dict(self):
        states = {name: part.state_dict() for name, part in self.parts.items()}
        return {**states, "losses": self.losses, "joint": self.criterion.targets.joint.clone()}

    def load_state_dict(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.losses = state["losses"]


def train(path, rank=0, world_size=1, killed_at=None):
    """Train from the last checkpoint on; the last rank dies in mid-step."""
    trainings = {kind: Training(options) for kind, options in KINDS.items()}
    first = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        first = saved["steps"]
        for kind, training in trainings.items():
            training.load_state_dict(saved[kind])
    for step in range(first, STEPS):
        epoch, place = divmod(step, STEPS_PER_EPOCH)
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(epoch))
        index = order.split(BATCH_SIZE)[place].tensor_split(world_size)[rank]
        for kind, training in trainings.items():
            if step == killed_at and rank == world_size - 1 and kind == "sparse":
                os.kill(os.getpid(), signal.SIGKILL)
            training.step(index)
        if rank == 0 and ((step + 1) % SAVED_EVERY == 0 or step + 1 == STEPS):
            states = {kind: training.state_dict() for kind, training in trainings.items()}
            torch.save({**states, "steps": step + 1}, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
    return trainings


def run(rank, world_size, killed_at, path, meeting):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    train(path, rank, world_size, killed_at)
    distributed.barrier()
    distributed.destroy_process_group()


def train_on_ranks(world_size, killed_at, path):
    context = get_context("forkserver")
    meeting = path.with_name(f"meeting of {world_size}")
    ranks = [
        context.Process(target=run, args=(rank, world_size, killed_at, path, meeting))
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks:
            rank.join(SECONDS)
        codes = [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if killed_at is None:
        assert codes == [0] * world_size
    else:
        assert codes == [1] * (world_size - 1) + [-signal.SIGKILL]


def assert_near(found, expected, name=""):
    """Within 1e-5: ranks sum in another order, and 30 steps amplify rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if not key.startswith("counts."):  # J, whose entries may be stored in another order
                assert_near(found[key], value, f"{name}/{key}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=name)
    elif isinstance(expected, (int, str, type(None))):
        assert found == expected, name
    else:
        assert found == pytest.approx(expected, abs=1e-5), name


def test_a_training_goes_on_with_other_numbers_of_ranks(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for world_size, killed_at in RUNS:
        train_on_ranks(world_size, killed_at, path)
        steps = torch.load(path, weights_only=True)["steps"]
        assert steps == (STEPS if killed_at is None else killed_at // SAVED_EVERY * SAVED_EVERY)
    whole = train(tmp_path / "uninterrupted.pt")
    resumed = torch.load(path, weights_only=True)
    for kind, training in whole.items():
        assert training.criterion.refurbishes
        assert not training.criterion.caution
        expected = training.state_dict()
        assert len(expected["losses"]) == STEPS
        for part in ("losses", "joint", "model", "criterion"):
            assert_near(resumed[kind][part], expected[part], f"{kind}/{part}")
