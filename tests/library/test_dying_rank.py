"""One of two processes is killed: the other ends with an error that says so, and does not hang."""

import os
import signal
from multiprocessing import get_context

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from reliability_balance import ReliabilityLoss, wrap
from reliability_balance.labels import RefurbishedTargets

LAST_STEP = 3
SECONDS = 120  # in which the survivor must have ended; on an idle machine it takes one


def train(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model = DistributedDataParallel(wrap(classifier, head="linear", num_anchors=2))
    targets, criterion = RefurbishedTargets(8, 3), ReliabilityLoss()
    index, labels = torch.arange(4), torch.tensor([0, 1, 2, 0])
    for step in range(1000):
        if rank == 1 and step == LAST_STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            output = model(torch.randn(4, 6))
            criterion(output, targets(index, labels, output.corrected)).total.backward()
        except RuntimeError as error:
            (folder / "error.txt").write_text(f"step {step}: {error}")
            os._exit(3)


def test_the_survivor_ends_with_an_error(tmp_path):
    spawn = get_context("spawn")
    ranks = [spawn.Process(target=train, args=(rank, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks:
            rank.join(SECONDS)
        assert [rank.exitcode for rank in ranks] == [3, -signal.SIGKILL]
    finally:
        for rank in ranks:
            rank.kill()
    error = (tmp_path / "error.txt").read_text()
    assert error.startswith(f"step {LAST_STEP}: ")
    assert "peer" in error.lower()
