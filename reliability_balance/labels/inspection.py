"""Rank labels by how likely they are wrong, from one training, without cross-validation.

The input is :class:`labels.RefurbishedTargets` after training of a wrapped model, or those that
:func:`inspect_embeddings` computes from stored embeddings.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance.labels.embedding_beliefs import (
    ROUNDS,
    SETTINGS,
    EmbeddingBeliefs,
    Voters,
    points_of,
    refurbished,
    take_in,
)
from reliability_balance.labels.knowledge import agreement, caution
from reliability_balance.labels.noise_estimate import seen_samples
from reliability_balance.labels.posterior import (
    PosteriorRule,
    one_label_each,
)
from reliability_balance.labels.rows import Progress, blocks, followed
from reliability_balance.labels.tables import (
    aligned,
    as_sequence,
    by_position,
    check_class_names,
    class_names_of,
)
from reliability_balance.labels.targets import RefurbishedTargets


class Verdict(IntEnum):
    """Verdict on a label; UNKNOWN if the model has learned too little."""

    UNKNOWN = -1
    UNDOUBTED = 0
    AMBIGUOUS = 1
    MISLABELLED = 2


SHOWN = 10
KNOWN_VERDICTS = (Verdict.UNDOUBTED, Verdict.AMBIGUOUS, Verdict.MISLABELLED)
"""The verdicts of labels whose class the beliefs know enough of."""
DOUBTED_FROM = 0.5
# A label is ambiguous if the weaker of label and likeliest other class has this share of the two.
AMBIGUOUS_FROM = 0.2
# Added to the seed, so that label noise drawn by a user with it is independent of the draws here.
OWN_STREAM = 7_919_317


class DoubtfulLabel(NamedTuple):
    """One row of a :class:`LabelRanking`."""

    sample: int
    given: int
    suggested: int
    doubt: float
    plausibility: float
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class LabelRanking:
    """Ranking of M labels, the most doubtful first; ties in the order of the samples.

    Args:
        sample: index in the training set.
        given: given label; for a soft label its likeliest class.
        suggested: class with the highest posterior; another one than `given` for all mislabelled
            labels.
        doubt: estimated probability that the label is wrong, in [0, 1].
        plausibility: predicted probability of the label, divided by the sum of those of the label
            and of the likeliest other class, in [0, 1]; near 0: clearly another class.
        verdict: values of :class:`Verdict`.
        caution: reason why all verdicts are UNKNOWN; empty if they are not.
        class_names: C names for ``str()``, which shows the first 10 rows, and for files, looked up
            by position; empty: class indices.
        sample_names: N names, such as :class:`data.SampleIds`; empty: sample indices.

    Shape:
        - sample, given, suggested: (M,) int64; doubt, plausibility: (M,) floating; verdict: (M,)
          int64; on the CPU.

    Raises:
        TypeError: if names are not a sequence, for example a dict, or a class has no name.
        ValueError: if there are too few names, or two classes have the same.

    Example:
        >>> ranking = LabelRanking(
        ...     sample=torch.tensor([41, 7]), given=torch.tensor([0, 1]),
        ...     suggested=torch.tensor([1, 1]), doubt=torch.tensor([0.97, 0.2]),
        ...     plausibility=torch.tensor([0.03, 0.9]), verdict=torch.tensor([2, 0]),
        ...     class_names=("cat", "dog"),
        ... )
        >>> print(ranking)
        sample  given  suggested  doubt  plausibility  verdict
            41  cat    dog         0.97          0.03  MISLABELLED
             7  dog    dog         0.20          0.90  UNDOUBTED
    """

    sample: Tensor
    given: Tensor
    suggested: Tensor
    doubt: Tensor
    plausibility: Tensor
    verdict: Tensor
    caution: str = ""
    class_names: Sequence[Any] = ()
    sample_names: Sequence[Any] = ()

    def __post_init__(self) -> None:
        classes = (self.given, self.suggested)
        for name, shown in (("class_names", classes), ("sample_names", (self.sample,))):
            names = as_sequence(name, getattr(self, name))
            needed = 1 + max(int(each.max()) for each in shown) if len(self) else 0
            if 0 < len(names) < needed:
                raise ValueError(f"`{name}` must hold at least {needed} names; got {len(names)}")
            object.__setattr__(self, name, names)
        check_class_names(self.class_names)

    def __len__(self) -> int:
        return len(self.sample)

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its index if classes have no names."""
        return str(self.class_names[index] if self.class_names else index)

    def sample_name(self, index: int) -> str:
        """Return the name of a sample, or its index if samples have no names."""
        return str(self.sample_names[index] if self.sample_names else index)

    def __str__(self) -> str:
        rows = [
            (
                self.sample_name(row.sample),
                self.class_name(row.given),
                self.class_name(row.suggested),
                f"{row.doubt:.2f}",
                f"{row.plausibility:.2f}",
                row.verdict.name,
            )
            for row in self.first(SHOWN)
        ]
        has_classes = bool(self.class_names)
        is_text = (bool(self.sample_names), has_classes, has_classes, False, False, True)
        lines = aligned([DoubtfulLabel._fields, *rows], is_text)
        if len(self) > SHOWN:
            lines.append(f"… and {len(self) - SHOWN} more")
        if self.caution:
            lines.append(f"no verdicts: {self.caution}")
        return "\n".join(lines)

    def __iter__(self) -> Iterator[DoubtfulLabel]:
        columns = [column.tolist() for column in self._columns().values()]
        for sample, given, suggested, doubt, plausibility, verdict in zip(*columns, strict=True):
            yield DoubtfulLabel(sample, given, suggested, doubt, plausibility, Verdict(verdict))

    def first(self, count: int) -> Self:
        """Return the `count` most doubtful labels, or all if there are fewer."""
        checks.at_least("count", count, 0)
        return self.rows(slice(count))

    def only(self, verdict: Verdict) -> Self:
        """Return the labels with this verdict."""
        return self.rows(self.verdict == verdict)

    def rows(self, rows: Tensor | slice) -> Self:
        """Return the labels at these places of the ranking."""
        return replace(self, **{name: column[rows] for name, column in self._columns().items()})

    def _columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in DoubtfulLabel._fields}


@torch.no_grad()
def rank_labels(
    targets: RefurbishedTargets,
    labels: Tensor,
    *,
    class_names: Iterable[Any] = (),
    sample_names: Iterable[Any] = (),
    progress: Progress | None = None,
) -> LabelRanking:
    r"""Rank labels by the probability that they are wrong; separate wrong from ambiguous ones.

    .. math:: \mathrm{doubt} = 1 - q_y, \quad
        \mathrm{plausibility} = \bar p_y / (\bar p_y + \max_{c \ne y} \bar p_c)

    with q the :func:`labels.label_posterior` and p the average of the corrected distribution
    over the epochs, which is flat if epochs or branches disagree. A label is ambiguous if its
    plausibility is between 0.2 and 0.8, and otherwise mislabelled if its doubt is above 0.5. A
    doubted label that is still the most probable class is ambiguous, too. Few
    labels are called ambiguous, because training makes the model confident: most ambiguous samples
    are not doubted. To rank by ambiguity, use the plausibility.

    A model that has learned nothing doubts labels at random. So all verdicts are UNKNOWN, with a
    warning, if samples were not seen often enough, or if it is not certain that predictions agree
    with the labels better than class frequencies do: Cohen's kappa below 0.05 or below three
    standard errors. Kappa
    is computed on held-back labels if there are at least 30, and otherwise on all. A network that
    memorized its labels passes the latter, but then doubts few labels.

    Args:
        targets: targets after training. Samples that were never seen are left out.
        labels: all N labels, as trained on.
        class_names: C names to show; empty: class indices.
        sample_names: N names to show, such as :class:`data.SampleIds`; empty: sample indices.
        progress: called with the number of labels ranked since its last call, such as
            ``tqdm(total=N).update``.

    Shape:
        - labels: (N,) int64, or (N, C) floating: the doubt of a soft label is one minus its
          overlap with q, and `given` is its likeliest class. Of several annotators' labels, (N, A)
          int64, the most frequent one is judged, by the posterior given all of them; ties are
          broken by the posterior.

    Raises:
        TypeError: on a wrong dtype, if names are not a sequence, or a class has no name.
        ValueError: on wrong shapes or values, on another number of names, on two classes of the
            same name, on other labels than those trained on, or if no sample was seen.

    Warns:
        UserWarning: if the model has learned too little for verdicts.

    Example:
        >>> targets = RefurbishedTargets(num_samples=40, num_classes=2, warmup=0)
        >>> probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
        >>> labels = probs.argmax(-1)
        >>> labels[2] = 1
        >>> for _ in range(3):
        ...     _ = targets(torch.arange(40), labels, probs)
        >>> ranking = rank_labels(targets, labels)
        >>> worst = next(iter(ranking))
        >>> worst.sample, worst.given, worst.suggested, worst.verdict.name
        (2, 1, 0, 'MISLABELLED')
    """
    class_names = class_names_of(class_names, targets.num_classes)
    sample_names = by_position("sample_names", sample_names, targets.num_samples)
    checks.callable_or_none("progress", progress)
    ranking = rank_quietly(targets, labels, progress)
    if ranking.caution:
        warnings.warn(f"no verdicts: {ranking.caution}", UserWarning, stacklevel=3)
    return replace(ranking, class_names=class_names, sample_names=sample_names)


def rank_quietly(
    targets: RefurbishedTargets, labels: Tensor, progress: Progress | None = None
) -> LabelRanking:
    """Rank labels, without a warning."""
    seen = seen_samples(targets, labels)
    used = labels.to(seen.device)[seen]
    posterior_of = targets.posterior_rule()
    given, suggested = torch.empty_like(seen), torch.empty_like(seen)
    doubt = numerics.widen(targets.averages.values[:0], targets.classes.shares).new_empty(len(seen))
    plausibility = torch.empty_like(doubt)
    parts = blocks(torch.arange(len(seen), device=seen.device), targets.num_classes)
    for rows in followed(parts, progress):
        given[rows], suggested[rows], doubt[rows], plausibility[rows] = _judged(
            targets, posterior_of, seen[rows], used[rows]
        )
    is_doubted = doubt > DOUBTED_FROM
    competing = torch.minimum(plausibility, 1.0 - plausibility) > AMBIGUOUS_FROM
    competing |= is_doubted & (suggested == given)
    verdict = torch.where(is_doubted, Verdict.MISLABELLED, Verdict.UNDOUBTED)
    verdict = torch.where(competing, Verdict.AMBIGUOUS, verdict)
    reason = caution(targets, seen, used)
    if reason:
        verdict = torch.full_like(verdict, Verdict.UNKNOWN)
    order = doubt.argsort(descending=True, stable=True)
    return LabelRanking(
        sample=seen[order].cpu(),
        given=given[order].cpu(),
        suggested=suggested[order].cpu(),
        doubt=doubt[order].cpu(),
        plausibility=plausibility[order].cpu(),
        verdict=verdict[order].cpu(),
        caution=reason,
    )


def _judged(
    targets: RefurbishedTargets, posterior_of: PosteriorRule, index: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return judged label, likeliest class, doubt and plausibility, (B,)."""
    posterior = posterior_of(targets.beliefs(index), labels)
    judged = one_label_each(labels, posterior)
    given = judged.argmax(-1) if judged.is_floating_point() else judged
    place = given.unsqueeze(-1)
    if judged.is_floating_point():
        trust = posterior.minimum(judged.to(posterior.dtype)).sum(-1)
    else:
        trust = posterior.gather(-1, place).squeeze(-1).clamp_max(1.0)
    average = numerics.widen(targets.averages_of(index))
    own = average.gather(-1, place).squeeze(-1)
    other = average.scatter_(-1, place, 0.0).amax(-1)
    plausibility = own / (own + other).clamp_min(torch.finfo(own.dtype).tiny)
    return given, posterior.argmax(-1), 1.0 - trust, plausibility


@torch.no_grad()
def pred_probs(
    targets: RefurbishedTargets, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Return the class probabilities of all samples as an array, as cleanlab and others expect.

    Args:
        targets: targets after training.
        out: array to write to, such as a memory map, if 8 N C bytes are too many. None: a new one.

    Returns:
        (N, C) float64, or `out`, whose rows sum to 1: :meth:`labels.RefurbishedTargets.beliefs`.
        They are not out-of-sample predictions; instead, training gave doubtful labels less weight.

    Raises:
        TypeError: if `out` is not a floating array.
        ValueError: if a sample was never seen, or `out` has another shape or is read-only.

    Example:
        >>> targets = RefurbishedTargets(num_samples=1, num_classes=2)
        >>> _ = targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[0.5, 0.5]]))
        >>> pred_probs(targets)
        array([[0.5, 0.5]])
    """
    unseen = int((targets.updates == 0).sum())
    if unseen:
        raise ValueError(f"`targets` must have seen all samples; got {unseen} unseen")
    shape = (targets.num_samples, targets.num_classes)
    if out is None:
        out = np.empty(shape)
    if not isinstance(out, np.ndarray) or not np.issubdtype(out.dtype, np.floating):
        got = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"`out` must be a floating array; got {got}")
    if out.shape != shape:
        raise ValueError(f"`out` must have shape (N, C) = {shape}; got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("`out` must be writable; got a read-only array")
    for rows in blocks(torch.arange(targets.num_samples), targets.num_classes):
        beliefs = targets.beliefs(rows.to(targets.updates.device)).double().cpu()
        out[rows[0] : rows[-1] + 1] = beliefs / beliefs.sum(-1, keepdim=True)
    return out


@torch.no_grad()
def inspect_embeddings(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> RefurbishedTargets:
    """Predict each label from the labels of similar embeddings, and return targets to rank them.

    There is no gradient training. Each label is predicted from the others by nearest-neighbour
    votes and by ridge regression, both in closed form. Their weights and the space of the distances
    are those that predict the labels best. In a second round the labels vote as refurbished after
    the first. Whether predictions agree with the labels well enough for verdicts is judged by the
    first.

    Pass the result to :func:`rank_labels`, :func:`pred_probs` and
    :func:`labels.estimate_noise`. Time is O(N min(N, 50,000) D). Memory is O(N D), and O(N C) for
    up to 32 classes or soft labels only.

    Args:
        embeddings: embeddings of any scale, of a network that was not trained on these labels: one
            that was may have learned their errors, and the noise rate is then far too low. Tokens
            are averaged.
        labels: class indices or class probabilities. The only label of a class cannot be predicted
            from others: it gets the probability of the likeliest class, so :func:`rank_labels`
            calls it ambiguous.
        num_classes: C.
        seed: seed of the up to 500 samples that weights and space are chosen on, and of the 50,000
            neighbours if there are more samples; torch's global generator is not used.
        progress: called with the number of samples whose neighbours were found since its last call,
            which takes most of the time, such as ``tqdm(total=N).update``.

    Shape:
        - embeddings: (N, D) or (N, T, D) floating, N >= 2; labels: (N,) int64 or (N, C) floating.

    Raises:
        TypeError: on wrong dtypes.
        ValueError: on wrong shapes or values.

    Example:
        >>> classes = torch.arange(600) % 2
        >>> embeddings = torch.randn(600, 4) + 4 * classes.unsqueeze(-1)
        >>> labels = classes.clone()
        >>> labels[7] = 0  # of the second class
        >>> targets = inspect_embeddings(embeddings, labels, num_classes=2)
        >>> int(rank_labels(targets, labels).sample[0])
        7
    """
    points = points_of(embeddings)
    checks.at_least("num_classes", num_classes, 2)
    checks.callable_or_none("progress", progress)
    checks.labels(labels, embeddings.shape[:1], num_classes)
    checks.label_values(labels, num_classes)
    if len(embeddings) < 2:
        raise ValueError(f"`embeddings` must hold at least 2 samples; got {len(embeddings)}")
    labels = labels.to(points.device)
    given = Voters.of(labels, num_classes, points.dtype)
    targets = RefurbishedTargets(len(points), num_classes, **SETTINGS).to(points.device)
    generator = torch.Generator().manual_seed(seed + OWN_STREAM)
    beliefs = EmbeddingBeliefs(points, given, generator, progress)
    voters = given
    for number in range(ROUNDS):
        take_in(targets, _lift_singletons(beliefs.predict(voters), given), labels)
        if number == 0:
            # Neighbours whose labels this one refurbished agree with it in the next round.
            rows = torch.arange(len(points), device=points.device)
            targets.agreement.copy_(torch.tensor(agreement(targets, rows, labels)))
            voters = refurbished(targets, labels, points.dtype)
    return targets


def _lift_singletons(
    predicted: Iterable[tuple[Tensor, Tensor]], given: Voters
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give a label that no other sample shares the probability of the likeliest class."""
    rare = given.total < 1.0 + 1e-6
    for rows, part in predicted:
        own = given.read(rows)[:, rare]
        alone = own * (given.total[rare] - own < 1e-6)
        best = part.amax(-1, keepdim=True)
        part[:, rare] = part[:, rare].maximum(alone * best)
        yield rows, part / part.sum(-1, keepdim=True)
