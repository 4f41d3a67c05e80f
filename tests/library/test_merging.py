"""Rows of several ranks, added to sparse ones, against loops."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reliability_balance.labels.merging import SENT, compress, merge
from reliability_balance.labels.rows import SparseRows

COUNT, SIZE, KEPT = 5, 14, 4


def stored_rows(generator):
    rows = SparseRows(COUNT, SIZE, KEPT, torch.float32)
    values = torch.rand(COUNT, SIZE, generator=generator)
    index = torch.arange(COUNT)
    rows.write(index, values, rows.largest(values, index))
    return rows


def spread(row, sent, named, shares):
    """Keep what is sent of named classes, and divide all else by the shares of the others."""
    held = {c: float(row[c]) if c in sent else 0.0 for c in named}
    others = [c for c in range(SIZE) if c not in named]
    rest = (float(sum(row)) - sum(held.values())) / max(
        sum(float(shares[c]) for c in others), 1 / SIZE
    )
    return [held[c] if c in named else rest * float(shares[c]) for c in range(SIZE)]


@given(st.integers(0, 10_000), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_merged_rows_are_those_of_loops(seed, number):
    generator = torch.Generator().manual_seed(seed)
    stored = stored_rows(generator)
    shares = torch.rand(SIZE, generator=generator) + 1.0
    shares /= shares.sum()
    index = torch.randint(COUNT - 1, (number,), generator=generator)  # the last one is not added to
    new = torch.rand(number, SIZE, generator=generator) ** 4
    classes = new.topk(SENT).indices
    before = stored.read(torch.arange(COUNT), shares)
    kept = [set(row) for row in stored.classes.tolist()]

    order = [*range(number // 2, number), *range(number // 2)]  # as of two ranks
    expected, sums = before.tolist(), {}
    for place in order:
        of_row = sums.setdefault(int(index[place]), {})
        for c in set(classes[place].tolist()) - kept[int(index[place])]:
            of_row[c] = of_row.get(c, 0.0) + float(new[place, c])
    named = {
        to: kept[to] | set(sorted(of_row, key=lambda c: -of_row[c])[:SENT])
        for to, of_row in sums.items()
    }
    for place in order:
        to = int(index[place])
        sent = kept[to] | set(classes[place].tolist())
        for c, value in enumerate(spread(new[place], named[to] & sent, named[to], shares)):
            expected[to][c] += value
    for to, found in named.items():
        row = expected[to]
        largest = sorted(found - {to}, key=lambda c: -row[c])
        expected[to] = spread(row, {to, *largest[: KEPT - 1]}, {to, *largest[: KEPT - 1]}, shares)

    parts = compress(stored, index, new.clone(), classes)
    halves = [each[order] for each in (*parts, classes)]
    merge(stored, tuple(halves[:-1]), halves[-1].int(), shares)
    read = stored.read(torch.arange(COUNT), shares)
    torch.testing.assert_close(read, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert stored.classes[:, 0].tolist() == list(range(COUNT))


def test_what_is_sent_keeps_the_sum():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(3, SIZE, generator=generator)
    classes = rows.topk(SENT).indices
    sums = rows.sum(-1)
    index, *values = compress(stored_rows(generator), torch.tensor([0, 1, 1]), rows, classes)
    assert index.dtype == torch.int32
    assert torch.equal(values[-1], sums)
