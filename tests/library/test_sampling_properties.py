"""Data refinement on any labels and groups: counts, ranks, seeds and resuming."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.refinement import check_epoch

from reliability_balance.data import DataRefinementSampler


@st.composite
def samplers(draw):
    size = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    groups = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    options = {
        "per_group": draw(st.integers(1, 12)),
        "per_class": draw(st.integers(1, 12)),
        "short_classes": draw(st.sampled_from(["replace", "keep"])),
        "seed": draw(st.integers(0, 5)),
    }
    return labels, groups, options


def make(labels, groups, options, epoch=0, **ranks):
    sampler = DataRefinementSampler(torch.tensor(labels), torch.tensor(groups), **options, **ranks)
    sampler.set_epoch(epoch)
    return sampler


@given(samplers(), st.integers(0, 3))
def test_an_epoch_is_what_counting_allows(drawn, epoch):
    labels, groups, options = drawn
    rows = list(make(*drawn, epoch))
    options = {name: value for name, value in options.items() if name != "seed"}
    check_epoch(rows, labels, groups, **options)


@given(samplers(), st.integers(1, 4), st.integers(0, 3))
def test_ranks_are_equally_long_and_share_out_one_epoch(drawn, num_replicas, epoch):
    whole = list(make(*drawn, epoch))
    parts = [
        list(make(*drawn, epoch, num_replicas=num_replicas, rank=rank))
        for rank in range(num_replicas)
    ]
    assert len({len(part) for part in parts}) == 1
    kept = len(whole) - len(whole) % num_replicas
    # Position by position, so that rows which are drawn twice are accounted for too.
    assert [row for step in zip(*parts, strict=True) for row in step] == whole[:kept]


@given(samplers(), st.data())
def test_resuming_gives_the_rest_of_the_epoch(drawn, data):
    whole = list(make(*drawn, 2))
    cut = data.draw(st.integers(0, len(whole)))
    sampler = make(*drawn, 2)
    iterator = iter(sampler)
    begun = [next(iterator) for _ in range(cut)]
    other = make(*drawn)
    other.load_state_dict(sampler.state_dict())
    other.set_epoch(2)  # as a trainer does
    assert begun + list(other) == whole
    assert list(other) == whole
