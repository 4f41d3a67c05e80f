"""Inspect a data set: counts against the published ones, damaged images, duplicates, leaks."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

from examples.arbex.audit.published_counts import PublishedCounts
from examples.arbex.faces.completeness import describe_problems, missing_share, with_lone_classes
from examples.arbex.faces.face_dataset import DECODING_THREADS
from examples.arbex.faces.face_table import SPLIT_NAMES, FaceTable, Problem
from examples.arbex.faces.image_sources import CorruptImageError

EXAMPLES_PER_CLASS = 6


@dataclass(frozen=True)
class Comparison:
    """Number of images found, and the published one."""

    part: str
    class_name: str  # empty for the whole part
    found: int
    published: int


@dataclass(frozen=True)
class Duplicates:
    """Rows whose images have identical pixels."""

    names: tuple[str, ...]
    across_splits: bool
    labels_differ: bool


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Args:
        name: of the data set.
        class_names: C names.
        counts: (3, C) int64 images of each split and class.
        comparisons: with the published numbers, if any.
        source: of the published numbers.
        problems: of the reader, of images that cannot be decoded, and classes in one split only.
        missing: number of faces that were left out or are of such a class, and of all faces.
        num_checked: number of decoded images.
        sizes: number of images of each (height, width), most frequent first.
        duplicates: sets of equal images; those across splits first.
        shared_groups: groups (persons, videos …) with images in more than one split.
        examples: some images of each class.
    """

    name: str
    class_names: tuple[str, ...]
    counts: Tensor
    comparisons: tuple[Comparison, ...]
    source: str
    problems: tuple[Problem, ...]
    missing: tuple[int, int]
    num_checked: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    duplicates: tuple[Duplicates, ...]
    shared_groups: int
    examples: tuple[tuple[str, tuple[Tensor, ...]], ...]

    def problem_counts(self) -> dict[str, int]:
        """Return the number of rows or images by kind of problem, most frequent first."""
        counter: Counter[str] = Counter()
        for problem in self.problems:
            counter[problem.kind] += problem.count
        return dict(counter.most_common())


def audit_faces(
    table: FaceTable, published: PublishedCounts | None = None, *, check_images: bool = True
) -> AuditReport:
    """Inspect a table.

    Args:
        table: the data set.
        published: numbers to compare with, such as ``PUBLISHED["raf-db"]``.
        check_images: whether to decode every image, to find damaged ones and duplicates; about one
            minute for 100,000 small images.
    """
    digests, sizes, damage = _check_images(table) if check_images else ([], [], ())
    sound = torch.tensor([digest is not None for digest in digests] or [True] * len(table))
    whole = with_lone_classes(
        replace(table.select(sound.nonzero().squeeze(-1)), problems=table.problems + damage)
    )
    return AuditReport(
        name=table.name,
        class_names=table.class_names,
        counts=table.counts(),
        comparisons=tuple(_compare(table, published)) if published else (),
        source=published.source if published else "",
        problems=whole.problems,
        missing=missing_share(whole),
        num_checked=len(digests),
        sizes=tuple(Counter(size for size in sizes if size is not None).most_common(5)),
        duplicates=_find_duplicates(table, digests),
        shared_groups=_count_shared_groups(table),
        examples=tuple(_choose_examples(table)),
    )


def _check_images(
    table: FaceTable,
) -> tuple[list[bytes | None], list[tuple[int, int] | None], tuple[Problem, ...]]:
    """Return digest, size and damage of each image."""

    def look(index: int) -> tuple[bytes | None, tuple[int, int] | None, str | None]:
        try:
            image = table.images[index]
        except (CorruptImageError, FileNotFoundError) as error:
            return None, None, str(error)
        size = (image.shape[1], image.shape[2])
        digest = blake2b(
            image.contiguous().numpy().tobytes(), digest_size=12, key=repr(size).encode()
        )
        return digest.digest(), size, None

    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        found = list(pool.map(look, range(len(table))))
    damage = tuple(
        Problem("corrupt image", table.names[index], error, lost=True)
        for index, (_, _, error) in enumerate(found)
        if error is not None
    )
    return [digest for digest, _, _ in found], [size for _, size, _ in found], damage


def _compare(table: FaceTable, published: PublishedCounts) -> Iterable[Comparison]:
    train, validation, test = table.counts()
    # A validation set that was taken from training belongs to it.
    official = "validation" in published.totals
    parts = {
        "all": train + validation + test,
        "train": train if official else train + validation,
        "validation": validation,
        "test": test,
    }
    for part, total in published.totals.items():
        yield Comparison(part, "", int(parts[part].sum()), total)
        for class_name, count in published.by_class.get(part, {}).items():
            found = int(parts[part][table.class_names.index(class_name)])
            yield Comparison(part, class_name, found, count)


def _find_duplicates(table: FaceTable, digests: list[bytes | None]) -> tuple[Duplicates, ...]:
    rows_of: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest is not None:
            rows_of.setdefault(digest, []).append(row)
    duplicates = [
        Duplicates(
            names=tuple(table.names[row] for row in rows),
            across_splits=len(table.splits[rows].unique()) > 1,
            labels_differ=len(table.labels[rows].unique()) > 1,
        )
        for rows in rows_of.values()
        if len(rows) > 1
    ]
    return tuple(sorted(duplicates, key=lambda each: (not each.across_splits, each.names)))


def _count_shared_groups(table: FaceTable) -> int:
    pairs = torch.stack([table.groups, table.splits.long()], -1).unique(dim=0)
    return int((pairs[:, 0].unique(return_counts=True)[1] > 1).sum())


def _choose_examples(table: FaceTable) -> Iterable[tuple[str, tuple[Tensor, ...]]]:
    for label, class_name in enumerate(table.class_names):
        rows = (table.labels == label).nonzero().squeeze(-1)
        images = []
        # Spread over the class, since adjacent rows are often of one person.
        spread = torch.linspace(0, len(rows) - 1, 3 * EXAMPLES_PER_CLASS).long()
        for row in rows[spread].unique() if len(rows) else ():
            try:
                images.append(table.images[int(row)])
            except (CorruptImageError, FileNotFoundError):
                continue
        yield class_name, tuple(images[:: max(1, len(images) // EXAMPLES_PER_CLASS)])


def format_text(report: AuditReport, *, num_examples: int = 5) -> str:
    """Format the report for a terminal.

    Args:
        report: the report.
        num_examples: maximum of problems and duplicates of each kind to list.
    """
    wide = max(len(name) for name in (*report.class_names, "all classes")) + 2
    lines = [f"{report.name}: {int(report.counts.sum())} faces", ""]
    lines.append(f"{'':{wide}}" + "".join(f"{name:>12}" for name in SPLIT_NAMES) + f"{'all':>12}")
    columns = torch.cat([report.counts, report.counts.sum(0, keepdim=True)]).T
    for name, row in zip(report.class_names, columns.tolist(), strict=True):
        lines.append(f"{name:{wide}}" + "".join(f"{count:12}" for count in row))
    totals = columns.sum(0).tolist()
    lines.append(f"{'all classes':{wide}}" + "".join(f"{count:12}" for count in totals))
    if report.comparisons:
        wrong = [each for each in report.comparisons if each.found != each.published]
        lines += ["", f"published counts ({report.source}): {len(wrong)} differ"]
        lines += [
            f"  {each.part} {each.class_name or 'in all'}: {each.found}, published {each.published}"
            for each in wrong
        ]
    lines += ["", f"groups with images in more than one split: {report.shared_groups}"]
    if report.num_checked:
        sizes = ", ".join(
            f"{width} x {height} ({count})" for (height, width), count in report.sizes
        )
        across = sum(each.across_splits for each in report.duplicates)
        lines.append(f"images decoded: {report.num_checked}; width x height: {sizes}")
        lines.append(f"sets of equal images: {len(report.duplicates)}; across splits: {across}")
        for each in report.duplicates[:num_examples]:
            note = "across splits" if each.across_splits else "in one split"
            note += ", with different labels" if each.labels_differ else ""
            lines.append(f"  {' = '.join(each.names[:4])} ({note})")
    missing, count = report.missing
    lines.append(f"faces left out, or of a class that only one split has: {missing} of {count}")
    lines.append(f"problems: {sum(report.problem_counts().values()) or 'none'}")
    lines += describe_problems(report.problems, num_examples=num_examples)
    return "\n".join(lines)
