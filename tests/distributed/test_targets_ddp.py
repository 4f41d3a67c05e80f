"""Two real processes hold the state that one process holds which sees both batches."""

import torch
from processes import run_ranks

from reliability_balance.targets import RefurbishedTargets

# The ranks' batches differ in size: 5 of rank 0, 3 of rank 1.
PARTS = [slice(0, 5), slice(5, 8)]


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        index = torch.randperm(12, generator=generator)[:8]
        labels = torch.randint(3, (8,), generator=generator)
        yield index, labels, torch.randn(8, 3, generator=generator).softmax(-1)


def feed(part):
    targets = RefurbishedTargets(12, 3, warmup=1)
    made = [targets(*(each[part] for each in batch)) for batch in batches()]
    return {"made": torch.stack(made), "state": targets.state_dict()}


def feed_rank(rank):
    return feed(PARTS[rank])


def test_two_processes_follow_one(tmp_path):
    alone = feed(slice(None))
    for part, rank in zip(PARTS, run_ranks(feed_rank, 2, tmp_path), strict=True):
        torch.testing.assert_close(rank["made"], alone["made"][:, part])
        for name, value in alone["state"].items():
            torch.testing.assert_close(rank["state"][name], value)
