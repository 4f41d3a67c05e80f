"""Check a data set for missing faces, and for classes without training or test images."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from examples.arbex.faces.face_table import TEST, TRAIN, FaceTable, Problem
from examples.arbex.plain_text import printable

ONE_SPLIT = "class that only one split has"
USES = ((TRAIN, "train"), (TEST, "test"))


def with_lone_classes(table: FaceTable) -> FaceTable:
    """Add a problem for each class that has faces, but no training or no test images.

    This detects a class that is spelled differently in each split, and labels that are not classes,
    such as identities.
    """
    counts = table.counts()
    uses = [(split, use) for split, use in USES if int(counts[split].sum())]
    lone = []
    for label, name in enumerate(table.class_names):
        count = int(counts[:, label].sum())
        lacking = [use for split, use in uses if not counts[split, label]]
        if count and lacking:
            detail = f"it has images, but none to {' or '.join(lacking)} on"
            lone.append(Problem(ONE_SPLIT, name, detail, count))
    return replace(table, problems=(*table.problems, *lone))


def missing_share(table: FaceTable) -> tuple[int, int]:
    """Count the faces that were left out or whose class is in one split only, and all faces.

    Example:
        >>> from dataclasses import replace
        >>> from synthetic_faces import synthetic_table
        >>> table = synthetic_table(96)
        >>> missing_share(replace(table, problems=(Problem("missing image", "a", "b", 4, True),)))
        (4, 100)
    """
    lost = sum(problem.count for problem in table.problems if problem.lost)
    lone = sum(problem.count for problem in table.problems if problem.kind == ONE_SPLIT)
    return lost + lone, len(table) + lost


def expect_complete(table: FaceTable, most: float) -> None:
    """Require that the share of missing faces is small enough.

    Args:
        table: with all problems, including those of :func:`with_lone_classes`.
        most: maximum share, from 0 to 1.

    Raises:
        ValueError: if more are missing; the message lists the problems.
    """
    missing, count = missing_share(table)
    if missing > most * count:
        kinds = _by_kind(each for each in table.problems if each.lost or each.kind == ONE_SPLIT)
        found = "; ".join(f"{kind}: {number}, such as {same[0]}" for kind, number, same in kinds)
        raise ValueError(
            f"`data.max_missing` must be at least the share of faces that were left out, or whose "
            f"class only one split has; got {most}, and {missing} of {count} are: {found}"
        )


def describe_problems(problems: Iterable[Problem], *, num_examples: int) -> list[str]:
    """Return lines with each kind of problem, most frequent first, and examples."""
    lines = []
    for kind, count, places in _by_kind(problems):
        lines.append(f"  {kind}: {count}")
        lines += [f"    {place}" for place in places[:num_examples]]
    return lines


def _by_kind(problems: Iterable[Problem]) -> list[tuple[str, int, list[str]]]:
    places: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.kind] += problem.count
        places.setdefault(problem.kind, []).append(printable(f"{problem.where}: {problem.detail}"))
    return [(kind, count, places[kind]) for kind, count in counts.most_common()]


def describe_completeness(table: FaceTable) -> str:
    """Describe the number of faces and the problems of the rest."""
    missing, count = missing_share(table)
    lines = [
        f"{table.name}: {len(table)} faces; left out, or of a class that only one split has: "
        f"{missing or 'none'}" + (f" of {count} ({100 * missing / count:.1f} %)" if missing else "")
    ]
    return "\n".join([*lines, *describe_problems(table.problems, num_examples=1)])
