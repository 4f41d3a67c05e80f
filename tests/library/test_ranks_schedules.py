"""Random schedules of calls on ranks that come and go, beside one process that makes them all."""

import io
import random

import pytest
import torch
from processes import run_ranks
from torch import distributed
from torch.nn import functional as F

from reliability_balance.labels import RefurbishedTargets

WORLD, SEEDS = 4, range(24)
KINDS = ("index", "soft", "annotators")


def schedule(seed):
    """Settings, labels and calls; a batch is (index, where it is cut for the ranks, its seed)."""
    draw = random.Random(seed)
    kind, classes = KINDS[seed % 3], draw.choice([2, 3, 10, 40])
    options = {"warmup": draw.choice([2, 3]), "held_back": draw.choice([0.0, 0.1, 0.4])}
    options["momentum"] = draw.choice([None, 0.7])
    if classes > 3 and draw.random() < 0.5:
        options["kept"] = 4
    if draw.random() < 0.3:
        options["dtype"] = torch.float16
    if kind == "annotators":
        options["num_annotators"] = 2
    repeats, count, calls = draw.choice(["none", "on a rank", "on ranks"]), draw.randint(8, 50), []
    size = count
    for _ in range(25):
        name = draw.choices(
            ["batch", "add_samples", "add_classes", "judge_memory", "again", "resume"],
            [18, 1, kind != "annotators", 1, 1, 3],
        )[0]
        if name == "batch":
            length = draw.choice([0, 1, 2, draw.randint(0, size), size])
            index = draw.choices(range(size), k=length)
            if repeats == "none":
                index = draw.sample(range(size), length)
            elif repeats == "on a rank":
                index.sort()
            cuts = sorted(draw.choices(range(length + 1), k=WORLD - 1))
            if repeats == "on a rank":
                cuts = [length - index[::-1].index(index[cut - 1]) if cut else 0 for cut in cuts]
            calls.append((name, index, cuts, draw.randrange(2**31)))
        else:
            amount = draw.randint(1, WORLD if name == "resume" else 5)
            size += amount if name == "add_samples" else 0
            calls.append((name, amount))
    return kind, classes, options, repeats, count, calls


def labels_of(kind, count, classes, shown):
    """Labels of the first classes, a third wrong; soft ones have `shown` columns."""
    generator = torch.Generator().manual_seed(1)
    true = torch.arange(200) * 7 % classes
    given = torch.where(torch.rand(200, generator=generator) < 1 / 3, (true + 1) % classes, true)
    if kind == "soft":
        given = 0.8 * F.one_hot(given, shown) + 0.2 * F.one_hot(true, shown)
    elif kind == "annotators":
        given = torch.stack([given, torch.randint(-1, classes, (200,), generator=generator)], 1)
    return given[:count]


def follow(seed, rank, groups):
    """Targets of all batches, and the state in the end; `groups` by size, None: one process."""
    kind, classes, options, _, count, calls = schedule(seed)
    size, shown, world = count, classes, 2
    is_alone, added, last, found = not groups, [], None, []

    def make():
        group = None if is_alone else groups[world]
        return RefurbishedTargets(count, classes, group=group, **options)

    targets, labels = make(), labels_of(kind, size, classes, shown)
    targets.expect(labels)
    for name, *arguments in calls:
        is_active = is_alone or rank < world
        if name == "batch":
            index, cuts, batch_seed = arguments
            generator = torch.Generator().manual_seed(batch_seed)
            rows = torch.tensor(index, dtype=torch.int64)
            probs = torch.randn(len(rows), shown, generator=generator)
            probs = (probs + 2 * F.one_hot(rows * 7 % classes, shown)).softmax(-1)
            edges = [0, *cuts[: world - 1], len(rows)]
            targets_of_all = torch.zeros(len(rows), shown)
            if is_active:
                part = slice(None) if is_alone else slice(edges[rank], edges[rank + 1])
                last = rows[part], labels[rows[part]], probs[part]
                targets_of_all[part] = targets(*last)
            found.append(targets_of_all)
        elif name == "again":
            if is_active and last is not None and last[2].shape[1] == shown:
                targets(*last, update=False)
        elif name == "judge_memory":
            targets.judge_memory()
        elif name == "resume":
            (world,) = arguments
            if not is_alone:
                targets = resumed(targets, make, added)
                targets.expect(labels)
        else:
            getattr(targets, name)(*arguments)
            added.append((name, *arguments))
            size += arguments[0] * (name == "add_samples")
            shown += arguments[0] * (name == "add_classes")
            labels = labels_of(kind, size, classes, shown)
            targets.expect(labels)
    if not is_alone and rank >= world:
        return {"targets": found}
    return {"targets": found, "state": targets.state_dict(), "joint": targets.joint}


def resumed(targets, make, added):
    """What rank 0 saves, loaded by new targets that have grown as much."""
    saved = [None]
    if distributed.get_rank() == 0:
        buffer = io.BytesIO()
        torch.save((targets.state_dict(), targets._cohorts, targets._released), buffer)
        saved = [buffer.getvalue()]
    distributed.broadcast_object_list(saved, 0)
    state, cohorts, released = torch.load(io.BytesIO(saved[0]), weights_only=True)
    targets = make()
    for name, amount in added:
        getattr(targets, name)(amount)
    targets.load_state_dict(state)
    targets._cohorts, targets._released = cohorts, released
    return targets


def follow_all(rank):
    groups = {size: distributed.new_group(list(range(size))) for size in range(1, WORLD + 1)}
    return [follow(seed, rank, groups) for seed in SEEDS]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return run_ranks(follow_all, WORLD, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_that_come_and_go_follow_one_process(ranks, seed):
    _, _, options, repeats, _, _ = schedule(seed)
    found, alone = [rank[seed] for rank in ranks], follow(seed, 0, None)
    state, expected = found[0]["state"], alone["state"]
    for other in found[1:]:
        for name, value in other.get("state", {}).items():
            assert torch.equal(value, state[name]), name
    for name in ("updates", "given"):
        assert torch.equal(state[name], expected[name]), name
    if repeats == "on ranks":  # the first rank's mean is stored, instead of the mean of all
        assert all(bool(each.isfinite().all()) for each in state.values())
        return
    is_exact = "averages.rest" not in expected and "dtype" not in options
    tolerance = 2e-5 if is_exact else 2e-2
    for batch, whole in enumerate(alone["targets"]):
        together = sum(each["targets"][batch] for each in found)
        assert len(whole) == 0 or float((together - whole).abs().sum(-1).mean()) < tolerance
    assert float((found[0]["joint"] - alone["joint"]).abs().sum()) < tolerance
    if is_exact:
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=2e-5, msg=name)
