"""Add rows that several ranks have compressed to sparse rows, which all of them store."""

import torch
from torch import Tensor

from reliability_balance.labels.rows import Parts, SparseRows

# Classes of a row that are sent besides those that are stored already. With 15, ranks follow one
# process no better.
SENT = 8


def compress(stored: SparseRows, index: Tensor, rows: Tensor, classes: Tensor) -> Parts:
    """Compress rows to send to the other ranks, which add them to stored ones.

    Args:
        stored: what they are added to, the same on all ranks.
        index: (M,), which stored row each is added to.
        rows: (M, C).
        classes: likeliest classes (M, n), distinct in each row; the first SENT are sent.

    Returns:
        `index` in int32; values (M, k) of the classes that are stored; values (M, SENT) of
        `classes`, 0 of those that are stored; the sum (M,) of all others.
    """
    classes = classes[:, :SENT]
    kept = stored.classes[index].long()
    inside = rows.gather(1, kept)
    others = rows.gather(1, classes).masked_fill_(_is_among(classes, kept), 0.0)
    return index.int(), inside, others, rows.sum(-1) - inside.sum(-1) - others.sum(-1)


def merge(stored: SparseRows, parts: Parts, classes: Tensor, shares: Tensor) -> None:
    """Add compressed rows, of which several may belong to one stored row.

    A row is its rest, divided by the class shares, and what its entries exceed that by. Both can be
    summed. Of each sum the first class stays, and the largest of the others are stored.

    Args:
        stored: what to add to.
        parts: what :func:`compress` returned, of all ranks; values may be scaled.
        classes: (M, n) as of :func:`compress`.
        shares: class shares (C,).
    """
    index, inside, others, rests = parts
    index, size, width = index.long(), stored.num_classes, others.shape[1]
    classes = classes[:, :width].long()
    kept, shares = stored.classes[index].long(), shares.to(inside.dtype)
    is_kept = _is_among(classes, kept)
    share = shares[kept]
    share_of_others = shares[classes].masked_fill_(is_kept, 0.0)
    named = share.sum(-1) + share_of_others.sum(-1)
    rest = stored.per_share(rests, named.unsqueeze(-1)).unsqueeze(-1)

    place = torch.searchsorted(index.sort().values, index)
    totals = inside.sum(-1) + others.sum(-1) + rests
    added = torch.cat([inside - rest * share, rest, totals.unsqueeze(-1)], dim=1)
    excess, rest_added, total_added = _sums(place, added)[place].split([kept.shape[1], 1, 1], dim=1)
    before = stored.values[index]
    values = before + excess + share * rest_added
    total = before.sum(-1) + stored.rest[index] + total_added.squeeze(-1)

    # Other classes of a stored row: one entry each, where it is first found in sorted order.
    keys = (index.unsqueeze(-1) * size + classes).flatten()
    keys, order = keys.sort(stable=True)
    first = torch.searchsorted(keys, keys)
    new = _sums(first, (others - rest * share_of_others).flatten()[order])
    rest_after = stored.rest_per_share(index, shares) + rest_added.squeeze(-1)
    new += shares[keys % size] * rest_after[order // width]
    is_new = (first == torch.arange(len(keys), device=keys.device)) & ~is_kept.flatten()[order]
    # The largest of each row come first: sorted by value, then by row.
    new, by_value = new.where(is_new, -torch.inf).sort(descending=True, stable=True)
    rows, by_row = (keys[by_value] // size).sort(stable=True)
    start = torch.searchsorted(rows, index).unsqueeze(-1)
    largest = by_row[start + torch.arange(width, device=keys.device)]

    values = torch.cat([values, new[largest]], dim=1)
    found = torch.cat([kept, (keys[by_value] % size)[largest]], dim=1)
    score = values.clone()
    score[:, 0] = torch.inf
    chosen = score.topk(kept.shape[1]).indices
    values = values.gather(1, chosen)
    stored.store(index, (values, total - values.sum(-1)), found.gather(1, chosen).int())


def _is_among(classes: Tensor, kept: Tensor) -> Tensor:
    """Return which classes (M, n) are in the same row of `kept` (M, k)."""
    return (classes.unsqueeze(-1) == kept.unsqueeze(1)).any(-1)


def _sums(place: Tensor, values: Tensor) -> Tensor:
    """Sum values (T, ...) of the same place (T,), in one order on all ranks."""
    return torch.zeros_like(values).index_put_((place,), values, accumulate=True)
