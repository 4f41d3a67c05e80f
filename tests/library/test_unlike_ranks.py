"""Processes that differ, fail or end: all of them end with an error, and soon."""

import pytest
import torch
from processes import run_ranks
from short_targets import short_targets
from torch import distributed

NUM_SAMPLES, NUM_CLASSES = 12, 3
LABELS = torch.arange(NUM_SAMPLES) % NUM_CLASSES
SETTINGS = {"num_samples": NUM_SAMPLES, "num_classes": NUM_CLASSES, "warmup": 1}


def batch(rank, step=0, *, size=4, num_classes=NUM_CLASSES):
    index = (torch.arange(size) + 5 * rank + step) % NUM_SAMPLES
    generator = torch.Generator().manual_seed(10 * step + rank)
    return index, LABELS[index], torch.randn(size, num_classes, generator=generator).softmax(-1)


def code(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def error_of(call, *arguments, **options):
    """The error's text as a tensor, since ranks give back tensors."""
    try:
        call(*arguments, **options)
    except (RuntimeError, ValueError, TypeError) as error:
        return code(f"{type(error).__name__}: {error}")
    return code("none")


def text_of(tensor):
    return bytes(tensor.tolist()).decode()


CHANGES = {
    "num_samples": {"num_samples": 13},
    "num_classes": {"num_classes": 4},
    "dtype": {"dtype": torch.float16},
    "momentum": {"momentum": None},
    "temperature": {"temperature": 0.6},
    "noise_temperature": {"noise_temperature": 0.5},
    "prior_count": {"prior_count": 3.0},
    "warmup": {"warmup": 2},
    "memory": {"memory": 0.7},
    "held_for": {"held_for": 0},
    "held_back": {"held_back": 0.3, "warmup": 2},
    "validate_args": {"validate_args": False},
}


def differ(rank):
    """For each change, the error of two targets of which rank 1's are made otherwise."""
    found = {}
    for name, change in CHANGES.items():
        targets = short_targets(**{**SETTINGS, **(change if rank else {})})
        given = batch(rank, num_classes=targets.average.shape[1])
        found[name] = error_of(targets, *given)
        assert not bool(targets.updates.any())
    index, labels, probs = batch(rank)
    soft = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    targets = short_targets(**SETTINGS)
    found["soft labels"] = error_of(targets, index, soft if rank else labels, probs)
    targets = short_targets(**SETTINGS)
    found["dtype of `probs`"] = error_of(targets, index, labels, probs.double() if rank else probs)
    alone = short_targets(**SETTINGS)
    if rank:
        alone.updates += 1  # as of a checkpoint that only one process has loaded
    found["updates before"] = error_of(alone, index, labels, probs)
    targets = short_targets(**SETTINGS)
    if rank:
        targets.judge_memory()
    found["judge_memory"] = error_of(targets, index, labels, probs)
    return found


def test_what_differs_is_named_on_all_ranks(pairs):
    ranks = pairs["differ"]
    others = ("soft labels", "dtype of `probs`", "updates before", "judge_memory")
    for name in (*CHANGES, *others):
        for rank in ranks:
            text = text_of(rank[name])
            assert text.startswith("RuntimeError: `targets` must be alike in all processes"), text
            assert f"got {name} [" in text, text


def refuse(rank):
    """Rank 1's second batch is bad; both go on after the error."""
    targets, found = short_targets(**SETTINGS), []
    for step in range(4):
        index, labels, probs = batch(rank, step)
        if rank == 1 and step == 1:
            probs = probs * torch.nan
        found.append(error_of(targets, index, labels, probs))
    return {"errors": found, "state": targets.state_dict()}


def test_a_batch_that_one_rank_refuses_is_refused_by_all(pairs):
    first, second = pairs["refuse"]
    assert [text_of(each) == "none" for each in first["errors"]] == [True, False, True, True]
    assert [text_of(each) == "none" for each in second["errors"]] == [True, False, True, True]
    assert "the batch of rank [1] was refused" in text_of(first["errors"][1])
    assert "`probs` must be non-negative" in text_of(second["errors"][1])
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name


def wrong_index(rank):
    """Both ranks count from 0: they name the same samples, with other labels."""
    targets = short_targets(**SETTINGS)
    _, labels, probs = batch(rank)
    return error_of(targets, torch.arange(4), labels, probs)


def test_an_index_that_restarts_on_each_rank_is_refused_by_all(pairs):
    for each in pairs["wrong_index"]:
        assert text_of(each).startswith("ValueError: `labels` must be those that the samples")


def shift(rank):
    """Rank 1 loses a call; all later ones would meet another one's."""
    targets, found = short_targets(**SETTINGS), []
    for step in range(3):
        if rank == 1 and step == 1:
            targets._ranks.calls += 1
        found.append(error_of(targets, *batch(rank, step)))
    return found


def test_shifted_calls_are_refused(pairs):
    for rank in pairs["shift"]:
        texts = [text_of(each) for each in rank]
        assert texts[0] == "none"
        assert all("must be called equally often" in each for each in texts[1:])


def uneven(rank):
    """Rank 1 has a batch less, and says so."""
    targets = short_targets(**SETTINGS)
    for step in range(3 - rank):
        last = error_of(targets, *batch(rank, step))
    return error_of(targets.check_ranks) if rank else last


def test_a_rank_with_fewer_batches_ends_all(pairs):
    for each in pairs["uneven"]:
        text = text_of(each)
        assert text.startswith("RuntimeError: `targets` must be called equally often"), text
        assert text.endswith("got calls [3, 3], of which 1 end the training")


def even(rank):
    targets = short_targets(**SETTINGS)
    for step in range(3):
        targets(*batch(rank, step, size=4 if step < 2 or rank == 0 else 0))
        if rank == 0:
            targets(*batch(rank, step), update=False)
    targets.check_ranks()
    return targets.state_dict()


def test_even_calls_pass_whatever_the_sizes(pairs):
    """Calls that do not update wait for nobody, so that they may be uneven."""
    first, second = pairs["even"]
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert int(first["updates"].sum()) == 20


def roll_back(rank):
    """Rank 1 goes back to an earlier state, with as many updates as the one it had."""
    targets = short_targets(**SETTINGS)
    targets(*batch(rank))
    early = {name: value.clone() for name, value in targets.state_dict().items()}
    early["updates"] = early["updates"].roll(1)
    targets.load_state_dict(targets.state_dict())
    found = [error_of(targets, *batch(rank, 1))]
    if rank:
        targets.load_state_dict(early)
    found.append(error_of(targets, *batch(rank, 2)))
    early["updates"] = early["updates"].roll(rank)
    targets.load_state_dict(early)
    return [*found, error_of(targets, *batch(rank, 3))]


def test_a_rank_that_goes_back_is_refused(pairs):
    for rank in pairs["roll_back"]:
        same, alone, unlike = (text_of(each) for each in rank)
        assert same == "none"
        for each in (alone, unlike):
            assert "must be alike in all processes; got updates before [" in each


SCENARIOS = (roll_back, differ, refuse, wrong_index, shift, uneven, even)


def all_scenarios(rank):
    return {scenario.__name__: scenario(rank) for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """What two processes gave for each scenario, by its name; they start once, which takes long."""
    ranks = run_ranks(all_scenarios, 2, tmp_path_factory.mktemp("ranks"))
    return {each.__name__: [rank[each.__name__] for rank in ranks] for each in SCENARIOS}


def in_groups(rank):
    """Ranks 0 and 2 train together; 1 trains alone; a group of others is refused."""
    pair, single = distributed.new_group([0, 2]), distributed.new_group([1])
    targets = short_targets(**SETTINGS, group=single if rank == 1 else pair)
    for step in range(3 if rank == 1 else 2):
        targets(*batch(rank, step))
    targets.check_ranks()
    other = short_targets(**SETTINGS, group=pair if rank == 1 else single)
    return {"state": targets.state_dict(), "error": error_of(other, *batch(rank))}


def test_a_group_of_some_trains_alone(tmp_path):
    ranks = run_ranks(in_groups, 3, tmp_path)
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[2]["state"][name]), name
    assert int(ranks[0]["state"]["updates"].sum()) == 12
    assert int(ranks[1]["state"]["updates"].sum()) == 12
    for rank in ranks:
        assert text_of(rank["error"]).startswith("ValueError: `group` must hold this process")
