"""What data refinement must satisfy, by plain counting (ARBEx section 4.2.2)."""

from collections import Counter


def check_epoch(rows, labels, groups, *, per_group, per_class, short_classes):
    """Fail unless `rows` could be one epoch of these labels and groups.

    The pool is random, so its classes are not known; but every pool has between `least` and `most`
    rows of a class.
    """
    counts = Counter(labels[row] for row in rows)
    repeats = Counter(rows)
    pool_sizes = {group: min(per_group, size) for group, size in Counter(groups).items()}
    used = Counter(groups[row] for row in repeats)
    for group, size in used.items():
        assert size <= pool_sizes[group]
    cells = Counter(zip(groups, labels, strict=True))
    for label in set(labels):
        most = least = 0
        for group, size in Counter(groups).items():
            mine = cells[group, label]
            most += min(mine, per_group)
            least += max(0, pool_sizes[group] - (size - mine))
        distinct = len({row for row in repeats if labels[row] == label})
        assert min(least, per_class) <= distinct <= min(most, per_class)
        if short_classes == "keep":
            assert counts[label] == distinct
        elif distinct:
            assert counts[label] == per_class
            # As evenly as can be: no row is drawn twice more often than another.
            times = [repeats[row] for row in repeats if labels[row] == label]
            assert max(times) - min(times) <= 1
            if distinct < per_class:
                assert distinct >= least
