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

    Each stored row is extended by the SENT classes that have the largest sums over the rows added
    to it, with their shares of its rest. Of the sum the first class stays, and the largest of the
    others are stored; all else is the new rest.

    Args:
        stored: what to add to.
        parts: what :func:`compress` returned, of all ranks; values may be scaled.
        classes: (M, n) as of :func:`compress`.
        shares: class shares (C,).
    """
    index, inside, others, sums = parts
    index, size = index.long(), inside.shape[1]
    place = torch.searchsorted(index.sort().values, index)  # the same for rows added to one row
    classes = classes[:, : others.shape[1]].long()
    new, at_new = _largest_sums(place, classes, others, stored.num_classes)
    added = sums_by_place(place, torch.cat([inside, sums.unsqueeze(-1)], 1))[place]

    kept, values, rest = stored.classes[index].long(), stored.values[index], stored.rest[index]
    shares = shares.to(values.dtype)
    per_share = stored.per_share(rest, take(shares, kept)).unsqueeze(-1)
    totals = values.sum(-1) + rest + added[:, -1]
    extended = torch.cat([values + added[:, :-1], at_new + per_share * take(shares, new)], 1)
    score = extended.clone()
    score[:, 0] = torch.inf
    chosen = score.topk(size).indices
    values = extended.gather(1, chosen)
    chosen = torch.cat([kept, new], 1).gather(1, chosen)
    stored.store(index, (values, totals - values.sum(-1)), chosen.int())


def _largest_sums(
    place: Tensor, classes: Tensor, values: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return the classes with the largest sums over all rows of a place, and these sums.

    Args:
        place: (M,), of each row how many rows have a lower place.
        classes: (M, S), distinct in each row.
        values: (M, S), negative of classes that do not count.
        num_classes: C.

    Returns:
        Both (M, S), equal in rows of one place; sums of minus infinity fill up.
    """
    width = classes.shape[1]
    places = place.unsqueeze(1).expand_as(classes).flatten()
    pairs, order = (places * num_classes + classes.flatten()).sort(stable=True)
    first = torch.searchsorted(pairs, pairs)  # of the same place and class
    values = values.flatten()[order]
    sums = sums_by_place(first, values)
    counts = (values >= 0) & (first == torch.arange(len(pairs), device=pairs.device))
    sums, by_sum = sums.where(counts, -torch.inf).sort(descending=True, stable=True)
    order = order[by_sum]
    by_place = places[order].sort(stable=True).indices
    # The pairs of a place start at that of its first row.
    chosen = by_place[place.unsqueeze(1) * width + torch.arange(width, device=place.device)]
    return classes.flatten()[order[chosen]], sums[chosen]
