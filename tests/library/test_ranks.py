"""Targets on two and four ranks: one state, the training of one process, and what is sent."""

import pytest
import torch
from processes import run_ranks
from torch import distributed

from reliability_balance.labels import RefurbishedTargets

NUM_SAMPLES, EPOCHS, BATCH_SIZE = 96, 6, 24
MANY = 40  # classes of which only the largest are stored


def labels_of(kind, num_classes):
    """Labels of which a third is wrong."""
    generator = torch.Generator().manual_seed(1)
    true = torch.randint(num_classes, (NUM_SAMPLES,), generator=generator)
    wrong = torch.rand(NUM_SAMPLES, generator=generator) < 1 / 3
    labels = torch.where(wrong, (true + 1) % num_classes, true)
    if kind == "annotators":
        others = torch.randint(-1, num_classes, (NUM_SAMPLES, 2), generator=generator)
        return true, torch.cat([labels.unsqueeze(1), others], dim=1)
    if kind == "soft":
        soft = 0.8 * torch.eye(num_classes)[labels] + 0.2 * torch.eye(num_classes)[true]
        return true, soft
    return true, labels


def parts_of(batch, step, world_size):
    """The ranks' parts: equal ones, uneven ones, or all samples on the last rank."""
    if world_size == 1:
        return [batch]
    if step == 1:
        return [*[batch[:0]] * (world_size - 1), batch]
    if step == 2:
        return [batch[:1], *batch[1:].tensor_split(world_size - 1)]
    return batch.tensor_split(world_size)


def follow(rank, world_size, kind, num_classes, options):
    """Targets of all samples in each epoch, and the state; other ranks' samples are 0."""
    true, labels = labels_of(kind, num_classes)
    targets = RefurbishedTargets(NUM_SAMPLES, num_classes, warmup=2, **options)
    targets.expect(labels)
    found = torch.zeros(EPOCHS, NUM_SAMPLES, num_classes)
    for epoch in range(EPOCHS):
        generator = torch.Generator().manual_seed(epoch)
        logits = torch.randn(NUM_SAMPLES, num_classes, generator=generator)
        probs = (1.5 * logits + (2 + epoch) * torch.eye(num_classes)[true]).softmax(-1)
        order = torch.randperm(NUM_SAMPLES, generator=generator)
        for step, batch in enumerate(order.split(BATCH_SIZE)):
            index = parts_of(batch, step, world_size)[rank]
            found[epoch, index] = targets(index, labels[index], probs[index])
        if epoch == 1:
            targets.judge_memory()
    return {"targets": found, "state": targets.state_dict(), "joint": targets.joint}


# Whole rows, and sparse ones whose counts lose nothing, differ by rounding.
EXACT = {
    "index": ("index", 5, {}),
    "soft": ("soft", 5, {}),
    "annotators": ("annotators", 5, {"num_annotators": 3}),
    "half of the classes": ("index", 6, {"kept": 3, "dtype": torch.float32}),
}
# Of many classes, small counts are not sent, and those of nearly equal counts change places.
COMPRESSED = {"many classes": ("index", MANY, {}), "many, soft": ("soft", MANY, {})}


def repeated(rank, num_classes):
    """Batches of few samples, so that some occur twice on a rank, or on several."""
    _, labels = labels_of("index", num_classes)
    targets = RefurbishedTargets(NUM_SAMPLES, num_classes, warmup=2)
    generator = torch.Generator().manual_seed(rank)
    for index in (torch.arange(0), torch.arange(int(rank == 0))):  # of no rank, of one
        targets(index, labels[index], torch.full((len(index), num_classes), 1 / num_classes))
    for _ in range(8):
        index = torch.randint(12, (16,), generator=generator)
        probs = torch.randn(16, num_classes, generator=generator).softmax(-1)
        targets(index, labels[index], probs)
    return targets.state_dict()


def first_of_repeated(rank):
    """Sample 0 on each rank, with other predictions."""
    targets = RefurbishedTargets(NUM_SAMPLES, 3, held_back=0.0)
    probs = torch.tensor([[0.2, 0.8, 0.0], [0.4, 0.6, 0.0], [0.1 * rank, 1 - 0.1 * rank, 0.0]])
    targets(torch.tensor([0, 0, 1 + rank]), torch.zeros(3, dtype=torch.int64), probs.roll(rank, 1))
    return {"averages": targets.average[:2], "updates": targets.updates[:2]}


def traffic(rank):
    """Bytes that a step sends for each sample, and those of its sums, with 1,000 classes."""
    sent = []
    plain = {name: getattr(distributed, name) for name in ("all_gather", "all_reduce")}

    def counting(name, place):
        def send(*tensors, **options):
            sent.append(tensors[place].nbytes)
            return plain[name](*tensors, **options)

        return send

    targets = RefurbishedTargets(NUM_SAMPLES, 1000)
    index = torch.arange(10) + 10 * rank
    probs = torch.rand(10, 1000).softmax(-1)
    try:
        distributed.all_gather = counting("all_gather", 1)
        distributed.all_reduce = counting("all_reduce", 0)
        targets(index, index, probs)
    finally:
        for name, function in plain.items():
            setattr(distributed, name, function)
    return torch.tensor(sent)


def all_scenarios(rank, world_size):
    cases = EXACT | COMPRESSED
    return {
        "follow": {name: follow(rank, world_size, *case) for name, case in cases.items()},
        "repeated": {str(size): repeated(rank, size) for size in (5, MANY)},
        "first": first_of_repeated(rank),
        "traffic": traffic(rank),
    }


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What all processes gave; they start once, which takes long."""
    size = request.param
    return run_ranks(all_scenarios, size, tmp_path_factory.mktemp("ranks"), size)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def beside_one_process(ranks, name, case):
    """Targets, J and state: of the ranks, which have one state, and of one process."""
    followed = [rank["follow"][name] for rank in ranks]
    for each in followed:
        assert_equal(each["state"], followed[0]["state"])
    targets = sum(each["targets"] for each in followed)
    return {**followed[0], "targets": targets}, follow(0, 1, *case)


@pytest.mark.parametrize("name", EXACT)
def test_ranks_follow_one_process(ranks, name):
    found, alone = beside_one_process(ranks, name, EXACT[name])
    for part in ("targets", "joint"):
        torch.testing.assert_close(found[part], alone[part], rtol=0, atol=5e-6)
    for part, value in alone["state"].items():
        if not part.startswith("counts."):  # J, whose entries may be stored in another order
            torch.testing.assert_close(found["state"][part], value, rtol=0, atol=5e-6, msg=part)


@pytest.mark.parametrize("name", COMPRESSED)
def test_ranks_with_many_classes_stay_near_one_process(ranks, name):
    found, alone = beside_one_process(ranks, name, COMPRESSED[name])
    distance = (found["targets"] - alone["targets"]).abs().sum(-1)
    assert float(distance.mean()) < 5e-3
    assert float((found["joint"] - alone["joint"]).abs().sum()) < 5e-3
    for part in ("updates", "given", "out_of_sample.classes"):
        assert torch.equal(found["state"][part], alone["state"][part]), part


def test_repeated_samples_keep_one_state(ranks):
    for size, state in ranks[0]["repeated"].items():
        for rank in ranks:
            assert_equal(rank["repeated"][size], state)
        assert int(state["updates"][0]) in range(2, 10)
        assert all(bool(value.isfinite().all()) for value in state.values())


def test_of_a_sample_on_several_ranks_the_first_ones_mean_is_stored(ranks):
    for rank in ranks:
        mean = torch.tensor([0.3, 0.7, 0.0])
        torch.testing.assert_close(rank["first"]["averages"][0], mean)
        torch.testing.assert_close(rank["first"]["averages"][1], torch.tensor([0.0, 1.0, 0.0]))
        assert rank["first"]["updates"].tolist() == [1, 1]


def test_a_step_sends_what_is_stored_and_not_the_batch(ranks):
    """A handshake, the rows, and sums over classes: not 4,000 bytes for a sample."""
    for rank in ranks:
        handshake, sums, rows = rank["traffic"].tolist()
        assert handshake == 5 * 8
        assert rows <= 10 * 320
        assert sums == 4 * (3 * 1000 + 2 * 3)
