"""Add rows to sparse rows, by the few of their entries that ranks send each other."""

import torch
from torch import Tensor

from reliability_balance.labels.rows import Parts, SparseRows, sums_by_place, take

# Classes of a row that are sent besides those that are stored already. With 15, sparse rows follow
# those stored whole no better.
SENT = 8


def compress(stored: SparseRows, index: Tensor, rows: Tensor, classes: Tensor) -> Parts:
    """Compress rows that :func:`merge` adds to stored ones.

    Args:
        stored: what they are added to, the same on all ranks.
        index: (M,), which stored row each is added to.
        rows: (M, C), not negative; may be overwritten.
        classes: likeliest classes (M, n), distinct in each row; the first SENT count.

    Returns:
        `index` in int32; values (M, k) of the classes that are stored; values (M, SENT) of
        `classes`, -1 of those that are stored; sums (M,) of the rows.
    """
    kept, totals = stored.classes[index].long(), rows.sum(-1)
    inside = rows.gather(1, kept)
    others = rows.scatter_(1, kept, -1.0).gather(1, classes[:, :SENT])
    return index.int(), inside, others, totals


def merge(stored: SparseRows, parts: Parts, classes: Tensor, shares: Tensor) -> None:
    """Add compressed rows, of which several may belong to one stored row.

    Each stored row is extended by the SENT likeliest classes of the first row that is added to it.
    A row is its rest, divided by the class shares, and what its entries exceed that by. Both can be
    summed. Of the sum the first class stays, and the largest of the others are stored.

    Args:
        stored: what to add to.
        parts: what :func:`compress` returned, of all ranks; values may be scaled.
        classes: (M, n) as of :func:`compress`.
        shares: class shares (C,).
    """
    index, inside, others, totals = parts
    index, classes, size = index.long(), classes[:, : others.shape[1]].long(), inside.shape[1]
    ordered, position = index.sort(stable=True)
    place = torch.searchsorted(ordered, index)
    first = position[place]
    kept, new, is_new = stored.classes[index].long(), classes[first], others[first] >= 0
    is_same = classes.unsqueeze(-1) == new.unsqueeze(1)
    at_new = others.unsqueeze(-1).where(is_same, 0.0).sum(1).where(is_new, 0.0)

    shares = shares.to(inside.dtype)
    share_of_kept, share_of_new = take(shares, kept), take(shares, new).where(is_new, 0.0)
    share = torch.cat([share_of_kept, share_of_new], 1)
    values = torch.cat([inside, at_new], 1)
    rest = stored.per_share(totals - values.sum(-1), share).unsqueeze(-1)
    added = torch.cat([values - rest * share, rest, totals.unsqueeze(-1)], 1)
    added = sums_by_place(place, added)[place]

    values, rest = stored.values[index], stored.rest[index]
    totals = values.sum(-1) + rest + added[:, -1]
    rest = stored.per_share(rest, share_of_kept).unsqueeze(-1)
    values = torch.cat([values, rest * share_of_new], 1)
    values = values + added[:, :-2] + added[:, -2:-1] * share
    values[:, size:].masked_fill_(~is_new, -torch.inf)
    score = values.clone()
    score[:, 0] = torch.inf
    chosen = score.topk(size).indices
    values = values.gather(1, chosen)
    classes = torch.cat([kept, new], 1).gather(1, chosen)
    stored.store(index, (values, totals - values.sum(-1)), classes.int())
