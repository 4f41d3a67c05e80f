"""One table of a training set's issues: wrong labels, outliers, near-duplicates and weak groups."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from reliability_balance import checks as arguments
from reliability_balance.labels.embedding_beliefs import points_of
from reliability_balance.labels.inspection import rank_quietly
from reliability_balance.labels.issue_checks import (
    CHECKS,
    Check,
    CheckInput,
    CheckResult,
    nearest_samples,
)
from reliability_balance.labels.rows import blocks
from reliability_balance.labels.tables import aligned, by_position, class_names_of
from reliability_balance.labels.targets import RefurbishedTargets

if TYPE_CHECKING:
    import pandas as pd

SHOWN_SAMPLES, SHOWN_GROUPS = 5, 3


@dataclass(frozen=True, eq=False)
class Issues:
    """Issues of N samples, by the names of the checks that found them.

    ``str()`` gives a report: how many samples have each issue, and the worst.

    Args:
        found: results of the checks, by name.
        caution: reason why no label has a verdict; empty if they have.
        sample_names: N names, such as :class:`data.SampleIds`; empty: sample indices.

    Example:
        >>> from reliability_balance.labels import CheckResult
        >>> found = CheckResult(torch.tensor([False, True]), torch.tensor([0.9, 0.0]))
        >>> print(Issues({"outlier": found}))
        issue    samples  worst
        outlier        1  1
    """

    found: dict[str, CheckResult]
    caution: str = ""
    sample_names: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(next(iter(self.found.values())).score) if self.found else 0

    def __str__(self) -> str:
        rows = [("issue", "samples", "worst")]
        for name, found in self.found.items():
            worst = self.worst(name)[:SHOWN_SAMPLES].tolist()
            if len(self.sample_names):
                worst = [self.sample_names[sample] for sample in worst]
            rows.append((name, str(int(found.is_issue.sum())), ", ".join(map(str, worst))))
        lines = aligned(rows, (True, False, True))
        for name, found in self.found.items():
            if found.groups:
                lines += ["", f"{name}: {len(found.groups)} found"]
                lines += [f"  {group}" for group in found.groups[:SHOWN_GROUPS]]
            if len(found.groups) > SHOWN_GROUPS:
                lines.append(f"  … and {len(found.groups) - SHOWN_GROUPS} more")
        if self.caution:
            lines += ["", f"no verdicts on labels: {self.caution}"]
        return "\n".join(lines)

    def worst(self, name: str) -> Tensor:
        """Return the samples with this issue, the worst first, ties in order.

        Args:
            name: name of a check.

        Raises:
            ValueError: if no check has this name.
        """
        arguments.one_of("name", name, tuple(self.found))
        found = self.found[name]
        rows = found.is_issue.nonzero().squeeze(1)
        return rows[found.score[rows].argsort(stable=True)]

    def columns(self) -> dict[str, Tensor]:
        """Return ``is_NAME_issue``, ``NAME_score`` and further columns of all checks, (N,) each."""
        table: dict[str, Tensor] = {}
        for name, found in self.found.items():
            table |= {f"is_{name}_issue": found.is_issue, f"{name}_score": found.score}
            table |= found.details
        return table

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table with a row for each sample, by its name if there are; needs pandas."""
        import pandas as pd

        names = list(self.sample_names) if len(self.sample_names) else None
        columns = {name: column.numpy() for name, column in self.columns().items()}
        return pd.DataFrame(columns, index=names)


@torch.no_grad()
def find_issues(
    targets: RefurbishedTargets,
    labels: Tensor,
    embeddings: Tensor,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
    checks: Sequence[Check] = CHECKS,
    seed: int = 0,
    class_names: Iterable[Any] = (),
    sample_names: Iterable[Any] = (),
) -> Issues:
    """Find wrong labels, outliers, near-duplicates and weak groups of a training set.

    Each of `checks` finds one issue; a :class:`labels.Check` of your own adds another. Time is
    O(N^2 D), in blocks; memory is O(N (C + D)).

    Args:
        targets: targets after training, ``criterion.targets``, or those that
            :func:`labels.inspect_embeddings` computed.
        labels: all N labels, as trained on.
        embeddings: embeddings of the samples, of any origin; tokens are averaged.
        metric: distance of embeddings.
        checks: the checks to run.
        seed: seed of the checks that draw at random.
        class_names: C names to show; empty: class indices.
        sample_names: N names to show, such as :class:`data.SampleIds`; empty: sample indices.

    Shape:
        - labels: (N,) int64, (N, C) floating, or (N, A) int64 of several annotators; embeddings:
          (N, D) or (N, T, D) floating.

    Raises:
        TypeError: on wrong dtypes, if `checks` are not :class:`labels.Check` objects, names not a
            sequence, or a class has no name.
        ValueError: on wrong shapes or values, on another number of names, on other labels than
            those trained on, if a sample was never seen, or if two classes or checks have the same
            name.

    Warns:
        UserWarning: if the model has learned too little for verdicts on labels.

    Example:
        >>> from reliability_balance import inspect_embeddings
        >>> classes = torch.arange(600) % 2
        >>> embeddings = torch.randn(600, 4) + 4 * classes.unsqueeze(-1)
        >>> embeddings[3] = torch.tensor([90.0, -90.0, 90.0, -90.0])
        >>> embeddings[9] = embeddings[8]
        >>> issues = find_issues(
        ...     inspect_embeddings(embeddings, classes, 2), classes, embeddings, metric="euclidean"
        ... )
        >>> int(issues.worst("outlier")[0]), issues.found["near_duplicate"].groups[0].samples
        (3, (8, 9))
    """
    count = len(targets.updates)
    points = points_of(embeddings)
    if len(embeddings) != count:
        raise ValueError(
            f"`embeddings` must be of the {count} samples of `targets`; got {len(embeddings)}"
        )
    arguments.one_of("metric", metric, ("cosine", "euclidean"))
    unseen = int((targets.updates == 0).sum())
    if unseen:
        raise ValueError(f"`targets` must have seen all samples; got {unseen} unseen")
    for check in checks:
        if not isinstance(check, Check):
            raise TypeError(f"`checks` must be Check objects, such as Outliers(); got {check!r}")
    class_names = class_names_of(class_names, targets.num_classes)
    sample_names = by_position("sample_names", sample_names, count)
    names = [check.name for check in checks]
    if len(set(names)) < len(names):
        raise ValueError(f"`checks` must have different names; got {', '.join(names)}")
    ranking = rank_quietly(targets, labels)
    if ranking.caution:
        warnings.warn(f"no verdicts on labels: {ranking.caution}", UserWarning, stacklevel=3)
    ranking = replace(
        ranking.rows(ranking.sample.argsort()), class_names=class_names, sample_names=sample_names
    )
    index = torch.arange(count, device=targets.updates.device)
    predicted = torch.empty_like(index)
    for rows in blocks(index, targets.num_classes):
        predicted[rows] = targets.beliefs(rows).argmax(-1)
    is_cosine = metric == "cosine"
    if is_cosine:  # the square of a huge coordinate would overflow
        largest = points.abs().amax(-1, keepdim=True)
        points = F.normalize(points / largest.clamp_min(torch.finfo(points.dtype).tiny), dim=-1)
    samples = CheckInput(
        points,
        is_cosine,
        *nearest_samples(points, is_cosine),
        ranking,
        predicted.cpu(),
        seed,
    )
    return Issues({check.name: check(samples) for check in checks}, ranking.caution, sample_names)
