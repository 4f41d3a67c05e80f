"""Add rows that several ranks have compressed to sparse rows, which all of them store."""

import torch
from torch import Tensor

from reliability_balance.labels.rows import Parts, SparseRows


def compress(stored: SparseRows, index: Tensor, rows: Tensor, classes: Tensor) -> Parts:
    """Compress rows to send to the other ranks, which add them to stored ones.

    Args:
        stored: what they are added to, the same on all ranks.
        index: (M,), which stored row each is added to.
        rows: (M, C).
        classes: (M, k) classes to send besides the stored ones, distinct in each row.

    Returns:
        `index` in int32; values (M, k') of the classes that are stored; values (M, k) of `classes`,
        0 of those that are stored; the sum (M,) of all others.
    """
    kept = stored.classes[index].long()
    inside = rows.gather(1, kept)
    others = rows.gather(1, classes).masked_fill_(_is_among(classes, kept), 0.0)
    return index.int(), inside, others, rows.sum(-1) - inside.sum(-1) - others.sum(-1)


def merge(stored: SparseRows, parts: Parts, classes: Tensor, shares: Tensor) -> None:
    """Add compressed rows, of which several may belong to one stored row.

    A row is its rest, which is divided by the class shares, and what its entries exceed that by.
    Both can be summed. The first class of a stored row stays; the largest of the others follow.

    Args:
        stored: what to add to.
        parts: what :func:`compress` returned, of all ranks; values may be scaled.
        classes: (M, k) as of :func:`compress`.
        shares: class shares (C,).
    """
    index, inside, others, rests = parts
    index, size = index.long(), stored.num_classes
    kept, shares = stored.classes[index].long(), shares.to(inside.dtype)
    share = shares[kept]
    share_of_others = shares[classes].masked_fill_(_is_among(classes, kept), 0.0)
    named = share.sum(-1) + share_of_others.sum(-1)
    rest = (rests / (1.0 - named).clamp_min(1.0 / size)).unsqueeze(-1)
    excess = inside - rest * share
    excess_of_others = others - rest * share_of_others

    # What is stored counts once, with the first of the rows that are added to it.
    ordered, order = index.sort(stable=True)
    place = torch.searchsorted(ordered, index)
    is_first = (order[place] == torch.arange(len(index), device=index.device)).unsqueeze(-1)
    before, rest_before = stored.values[index], stored.rest_per_share(index, shares)
    excess += (before - rest_before.unsqueeze(-1) * share).where(is_first, 0.0)
    added = torch.stack([rest.squeeze(-1), inside.sum(-1) + others.sum(-1) + rests], dim=1)
    rest_added, total_added = _sums(place, added)[place].unbind(1)
    rest_after = rest_before + rest_added
    total = before.sum(-1) + stored.rest[index] + total_added

    # Sum the entries of each class of a stored row where it is first found in sorted order.
    keys = index.unsqueeze(-1) * size + torch.cat([kept, classes], dim=1)
    width, keys = keys.shape[1], keys.flatten()
    sorted_keys, order = keys.sort(stable=True)
    spot = torch.searchsorted(sorted_keys, keys)
    values = _sums(spot, torch.cat([excess, excess_of_others], dim=1).flatten())
    found = sorted_keys % size
    values += shares[found] * rest_after[order // width]
    is_own = order % width == 0
    is_repeated = sorted_keys[1:] == sorted_keys[:-1]
    score = values.masked_fill(is_own, torch.inf)
    score[1:].masked_fill_(is_repeated, -torch.inf)

    # The largest of each stored row: sorted by value, then by row.
    by_value = score.argsort(descending=True, stable=True)
    rows, by_row = (sorted_keys[by_value] // size).sort(stable=True)
    start = torch.searchsorted(rows, index)
    best = by_value[by_row][start.unsqueeze(-1) + torch.arange(kept.shape[1], device=index.device)]
    values = values[best]
    stored.store(index, (values, total - values.sum(-1)), found[best].int())


def _is_among(classes: Tensor, kept: Tensor) -> Tensor:
    """Return which classes (M, k) are in the same row of `kept` (M, k')."""
    return (classes.unsqueeze(-1) == kept.unsqueeze(1)).any(-1)


def _sums(place: Tensor, values: Tensor) -> Tensor:
    """Sum values (T, ...) of the same place (T,), in one order on all ranks."""
    return torch.zeros_like(values).index_put_((place,), values, accumulate=True)
