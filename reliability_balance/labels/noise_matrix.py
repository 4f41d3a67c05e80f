"""The noise matrix T from J, the joint distribution of true class and given label."""

from functools import partial

import torch
from torch import Tensor, nn

from reliability_balance import numerics
from reliability_balance.labels import merging
from reliability_balance.labels.annotators import as_votes
from reliability_balance.labels.posterior import (
    PosteriorRule,
    as_probabilities,
    label_posterior,
    normalised,
)
from reliability_balance.labels.rows import Parts, SparseRows, take

# Classes of a soft label that count, where J is sparse.
SOFT_CLASSES = 4

FREQUENCY_STEPS = 500


def first_joint(like: Tensor) -> Tensor:
    """Return the initial J (C, C): uniform classes, half of the labels correct.

    `like` (C,) sets device and dtype: a matrix created on the host would synchronize each step.
    """
    return _with_first(like.new_zeros(len(like), len(like)), 1.0)


def _with_first(joint: Tensor, weight: float) -> Tensor:
    """Add :func:`first_joint` times a weight to J (C, C), without creating that matrix."""
    share = weight / (2.0 * len(joint))
    joint = joint + share / len(joint)
    joint.diagonal().add_(share)
    return joint


def as_noise_matrix(joint: Tensor, num_samples: int) -> Tensor:
    """Normalise the rows of J (C, C), which is in shares of the samples, to T."""
    # The initial J with the weight of one sample defines rows of classes without samples.
    joint = _with_first(joint, 1.0 / num_samples)
    # No wrong label is more frequent than the correct one: otherwise two classes could be swapped.
    joint = joint.minimum(joint.diagonal().unsqueeze(-1))
    return joint / joint.sum(-1, keepdim=True)


class DenseCounts(nn.Module):
    """J, stored whole.

    Args:
        num_samples: N.
        num_classes: C.

    State:
        ``joint`` (C, C).
    """

    joint: Tensor

    def __init__(self, num_samples: int, num_classes: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.register_buffer("joint", first_joint(torch.zeros(num_classes)))

    def whole(self, shares: Tensor) -> Tensor:
        """Return J (C, C); `shares` as in :meth:`SparseCounts.whole`."""
        return self.joint

    def replace(self, joint: Tensor) -> None:
        """Store another J (C, C)."""
        self.joint.copy_(joint)

    def matrix(self, shares: Tensor) -> Tensor:
        """Return T (C, C); `shares` as in :meth:`SparseCounts.whole`."""
        return as_noise_matrix(self.joint, self.num_samples)

    def posteriors(
        self, scores: Tensor, temperature: float, labels: Tensor, shares: Tensor
    ) -> tuple[Tensor, ...]:
        """Return beliefs, posteriors, and posteriors of sharper beliefs, (B, C).

        Args:
            scores: logarithms of the beliefs (B, C), up to a constant; may be overwritten.
            temperature: that sharpens the beliefs further.
            labels: class indices (B,).
            shares: class shares (C,), as in :meth:`SparseCounts.whole`.
        """
        # label_posterior in the log domain: all entries of T are positive
        likelihood = self.matrix(shares).to(scores.dtype).log().T[labels]
        sharper = torch.add(likelihood, scores, alpha=1.0 / temperature)
        return numerics.softmax(torch.stack([scores, scores + likelihood, sharper])).unbind()

    def rule(self, shares: Tensor) -> PosteriorRule:
        """Return the function from beliefs and labels to posteriors (B, C)."""
        return partial(label_posterior, noise_matrix=self.matrix(shares))

    def collect(
        self,
        posterior: Tensor,
        labels: Tensor,
        given: Tensor,
        shares: Tensor,
        classes: Tensor,
    ) -> tuple[Parts, Parts]:
        """Return what a batch adds to J: rows for its samples, and sums over them.

        Samples are weighted by their share of an epoch; rows of 0 are ignored. For a soft label y,
        label k counts for class c in proportion to T_ck y_k.

        Args:
            posterior: posteriors (B, C).
            labels: their labels, (B,) or (B, C), or of annotators (B, A).
            given: the labels as indices (B,) or probabilities (B, C).
            shares: class shares (C,), as in :meth:`SparseCounts.whole`.
            classes: likeliest classes (B, k) of the samples, to compress the rows.
        """
        posterior = numerics.widen(posterior)
        given = as_probabilities(given, posterior)
        with numerics.without_autocast(posterior):
            if labels.is_floating_point():
                matrix = self.matrix(shares).to(posterior.dtype)
                tiny = torch.finfo(posterior.dtype).tiny
                counts = (posterior / (given @ matrix.T).clamp_min(tiny)).T @ given * matrix
            else:
                counts = posterior.T @ given
            return (), (counts.to(self.joint.dtype),)

    def add(self, rows: Parts, sums: Parts, shares: Tensor, classes: Tensor) -> None:
        """Update J with what :meth:`collect` returned, with the same `classes`."""
        (new,) = sums
        decay = (1.0 - new.sum() / self.num_samples).clamp_min(0.0)
        self.joint.mul_(decay).add_(new, alpha=1.0 / self.num_samples)

    def add_samples(self, count: int) -> None:
        """Raise N, so that each sample changes J less."""
        self.num_samples += count

    def add_classes(self, count: int) -> None:
        """Append rows and columns as in the initial J; the others shrink in proportion."""
        old = len(self.joint)
        joint = first_joint(self.joint.new_zeros(old + count))
        joint[:old, :old] = self.joint * (joint[:old, :old].sum() / self.joint.sum())
        self.joint = joint


class SparseCounts(nn.Module):
    r"""J for many classes: for each label its own class, the likeliest others, and a rest.

    The rest of a label is divided over the classes by their shares u, so that

    .. math:: J_{ck} = S_{ck} + u_c r_k

    with S sparse. A step costs O(B C), and J takes O(C) memory. In a step, the
    eight classes with the largest counts for a label compete with those stored; the others join
    the rest.

    Args:
        num_samples: N.
        num_classes: C.
        kept: number of classes stored for each label, its own included; all if there are fewer.

    State:
        ``columns``, whose row k is the column of label k.
    """

    def __init__(self, num_samples: int, num_classes: int, kept: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.num_classes = num_classes
        self.kept = kept
        self.columns = SparseRows(num_classes, num_classes, min(kept, num_classes), torch.float32)
        self._initialize(slice(None))

    def whole(self, shares: Tensor) -> Tensor:
        """Return J (C, C); `shares` (C,) are the class shares u."""
        return self.columns.read(self._all_labels(), shares).T

    def replace(self, joint: Tensor) -> None:
        """Store another J (C, C)."""
        labels = self._all_labels()
        columns = joint.T.to(self.columns.values.dtype, copy=True)
        self.columns.write(labels, columns, self.columns.largest(columns, labels))

    def matrix(self, shares: Tensor) -> Tensor:
        """Return T (C, C); `shares` as in :meth:`whole`."""
        return self._likelihood(self._all_labels(), shares).T

    def posteriors(
        self, scores: Tensor, temperature: float, labels: Tensor, shares: Tensor
    ) -> tuple[Tensor, ...]:
        """Return beliefs and posteriors as :meth:`DenseCounts.posteriors`, without logarithms.

        Posteriors are returned up to a factor for each sample.
        """
        likelihood = self._likelihood(labels, shares)
        beliefs = numerics.softmax(scores)
        sharper = numerics.softmax(scores.div_(temperature)).mul_(likelihood)
        return beliefs, likelihood.mul_(beliefs), sharper

    def rule(self, shares: Tensor) -> PosteriorRule:
        """Return the function from beliefs and labels to posteriors (B, C)."""

        def posterior_of(beliefs: Tensor, labels: Tensor) -> Tensor:
            return normalised(numerics.widen(beliefs) * self._likelihood(labels, shares), beliefs)

        return posterior_of

    def collect(
        self,
        posterior: Tensor,
        labels: Tensor,
        given: Tensor,
        shares: Tensor,
        classes: Tensor,
    ) -> tuple[Parts, Parts]:
        """Return what a batch adds, as :meth:`DenseCounts.collect`.

        Of a soft label the likeliest classes count. Rows hold the classes stored of their label,
        the first of `classes`, and their sum.
        """
        rows, labels_each = posterior.to(self.columns.values.dtype), 1
        if labels.is_floating_point():
            weights, labelled = _likeliest(labels.to(rows.dtype))
            tiny = torch.finfo(rows.dtype).tiny
            rows = rows / self._likelihood(labels, shares).clamp_min(tiny)
            labels, labels_each = labelled.flatten(), labelled.shape[1]
            rows = (rows.unsqueeze(1) * weights.unsqueeze(-1)).flatten(0, 1)
            rows = rows * self._likelihood(labels, shares)
        classes = _repeated(classes, labels_each)
        parts = merging.compress(self.columns, labels, rows, classes)
        return tuple(each.unflatten(0, (len(posterior), labels_each)) for each in parts), ()

    def add(self, rows: Parts, sums: Parts, shares: Tensor, classes: Tensor) -> None:
        """Update J with what :meth:`collect` returned, with the same `classes`."""
        labels, *values = rows
        decay = (1.0 - values[-1].sum() / self.num_samples).clamp_min(0.0)
        self.columns.values.mul_(decay)
        self.columns.rest.mul_(decay)
        scaled = (each.flatten(0, 1) / self.num_samples for each in values)
        classes = _repeated(classes, labels.shape[1])
        merging.merge(self.columns, (labels.flatten(), *scaled), classes, shares)

    def add_samples(self, count: int) -> None:
        """Raise N, so that each sample changes J less."""
        self.num_samples += count

    def add_classes(self, count: int) -> None:
        """Append columns as in the initial J; the others shrink in proportion.

        The appended rows take their shares of the rest of the other columns.
        """
        old = self.num_classes
        self.num_classes += count
        self.columns.add_classes(count)
        if self.kept > old:
            self.columns.store_more(min(self.kept, self.num_classes) - old)
        self.columns.add_samples(count)
        self.columns.values.mul_(old / self.num_classes)
        self.columns.rest.mul_(old / self.num_classes)
        self._initialize(slice(old, None))

    def _initialize(self, labels: slice) -> None:
        """Set columns to those of :func:`first_joint`."""
        columns, size = self.columns, self.num_classes
        other, kept = 1.0 / (2.0 * size**2), columns.values.shape[1]
        classes = torch.arange(size)[labels, None] + torch.arange(kept)
        columns.classes[labels] = classes.remainder(size).to(columns.classes)
        columns.values[labels] = other
        columns.values[labels, 0] += size * other
        columns.rest[labels] = (size - kept) * other

    def _all_labels(self) -> Tensor:
        return torch.arange(self.num_classes, device=self.columns.rest.device)

    def _likelihood(self, labels: Tensor, shares: Tensor) -> Tensor:
        """Return sum_k T_ck y_k (B, C) of labels y, (B,) or (B, C).

        As in :func:`as_noise_matrix`, one sample is added to J beforehand, and no wrong label that
        is stored is more frequent than the correct one.
        """
        columns, size = self.columns, self.num_classes
        dtype = torch.promote_types(columns.values.dtype, torch.float32)
        shares = shares.to(dtype)
        other = 1.0 / (2.0 * self.num_samples * size**2)
        correct = columns.values[:, 0] + size * other
        classes = columns.classes.long()
        stored = take(shares, classes)
        rest = columns.per_share(columns.rest.to(dtype), stored)
        entries = columns.values.minimum(take(correct, classes)) - rest.unsqueeze(-1) * stored
        entries[:, 0] += size * other
        totals = shares * rest.sum() + size * other
        totals.scatter_add_(0, classes.flatten(), entries.flatten())
        weight = totals.reciprocal()
        if labels.is_floating_point():
            weights, labels = _likeliest(labels.to(dtype))
            rest = (weights * rest[labels]).sum(-1)
            classes, entries = classes[labels], weights.unsqueeze(-1) * entries[labels]
        else:
            rest, classes, entries = rest[labels], classes[labels], entries[labels]
        likelihood = torch.addcmul(other * weight, rest.unsqueeze(-1), shares * weight)
        entries = entries * take(weight, classes)
        return likelihood.scatter_add_(1, classes.flatten(1), entries.flatten(1))


Counts = DenseCounts | SparseCounts


def _repeated(rows: Tensor, times: int) -> Tensor:
    """Repeat each row; a view of (B, n) if once."""
    return rows.unsqueeze(1).expand(-1, times, -1).flatten(0, 1)


def _likeliest(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest shares of soft labels (B, C), scaled to sum 1, and their classes."""
    weights, classes = labels.topk(min(SOFT_CLASSES, labels.shape[-1]))
    return weights / weights.sum(-1, keepdim=True), classes


class AnnotatorCounts(nn.Module):
    r"""Noise matrices of the annotators, shrunk to the common one.

    .. math:: J^a_{ck} \gets (1 - B/N) \, J^a_{ck} + \frac{1}{N} \sum_{i \in B, y_{ia} = k} q'_{ic},
        \quad T^a_{ck} = \frac{N J^a_{ck} + s T_{ck}}{\sum_k N J^a_{ck} + s}

    where q' is the posterior given the labels of all annotators and T the common matrix. For a
    class that an annotator labelled rarely, their row is close to the common one. As in T, a wrong
    label counts at most as often as the correct one.

    Args:
        num_annotators: A.
        num_classes: C.
        prior: s, as a number of labels of a class, >= 0.

    State:
        ``joint`` (A, C, C), J above, as shares of the samples.
    """

    joint: Tensor

    def __init__(self, num_annotators: int, num_classes: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("joint", torch.zeros(num_annotators, num_classes, num_classes))

    def collect(self, posterior: Tensor, labels: Tensor, num_samples: int) -> Parts:
        """Return what posteriors (B, C) and labels (B, A) add to J; rows of 0 are ignored."""
        posterior = numerics.widen(posterior)
        with numerics.without_autocast(posterior):
            votes = as_votes(labels, posterior)
            counts = (posterior.T @ votes.flatten(1)).unflatten(1, votes.shape[1:])
            new = counts.transpose(0, 1).to(self.joint.dtype) / num_samples
            return new, posterior.sum().to(self.joint.dtype) / num_samples

    def add(self, new: Tensor, share: Tensor) -> None:
        """Update J with what :meth:`collect` returned."""
        self.joint.mul_((1.0 - share).clamp_min(0.0)).add_(new)

    def matrices(self, common: Tensor, num_samples: int) -> Tensor:
        """Return T^a (A, C, C), whose rows sum to 1; `common` is T (C, C)."""
        # A thousandth of a label defines rows without labels.
        counts = num_samples * self.joint + max(self.prior, 1e-3) * common
        correct = counts.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        counts = counts.minimum(correct)
        return counts / counts.sum(-1, keepdim=True)

    def add_samples(self, before: int, count: int) -> None:
        """Append samples to `before` ones; the number of labels counted stays."""
        self.joint.mul_(before / (before + count))

    def add_classes(self, count: int) -> None:
        """Append classes without labels."""
        self.joint = nn.functional.pad(self.joint, (0, count, 0, count))


def true_frequencies(labels: Tensor, noise_matrix: Tensor) -> Tensor:
    r"""Estimate the frequencies of the true classes from noisy labels, by maximum likelihood.

    .. math:: \pi_c \gets \sum_k f_k \, \frac{\pi_c T_{ck}}{\sum_{c'} \pi_{c'} T_{c'k}}

    where f are the frequencies of the labels (expectation maximisation).

    Args:
        labels: class indices.
        noise_matrix: T, whose rows sum to 1.

    Shape:
        - labels: (N,) int64, N >= 1; noise_matrix: (C, C); returns (C,) float64, > 0.

    Example:
        >>> noise_matrix = torch.tensor([[0.8, 0.2], [0.2, 0.8]])
        >>> labels = torch.tensor([0] * 74 + [1] * 26)
        >>> true_frequencies(labels, noise_matrix)
        tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    matrix = noise_matrix.double().clamp_min(torch.finfo(torch.float32).eps)
    given = labels.bincount(minlength=len(matrix)).to(matrix) / len(labels)
    shares = torch.full_like(given, 1.0 / len(given))
    for _ in range(FREQUENCY_STEPS):
        shares = shares * (matrix @ (given / (shares @ matrix)))
    # No class gets less than half a sample, so that logarithms stay finite.
    shares = shares.clamp_min(0.5 / len(labels))
    return shares / shares.sum()


def with_rate(noise_matrix: Tensor, rate: float, frequencies: Tensor) -> Tensor:
    r"""Change a noise matrix to another rate of wrong labels.

    .. math:: T' = I + \frac{\rho}{r} (T - I) \;\text{ for } \rho \le r, \quad
        T' = (1 - u) \, T + \frac{u}{C} \;\text{ for } \rho > r

    where r is the rate of T, rho the new one, and u is such that T' has it: noise is taken away in
    proportion, and added evenly.

    Args:
        noise_matrix: T, whose rows sum to 1.
        rate: rho, in [0, 1 - 1/C).
        frequencies: of the true classes, summing to 1.

    Shape:
        - noise_matrix: (C, C) floating; frequencies: (C,); returns (C, C).

    Example:
        >>> noise_matrix = torch.tensor([[0.8, 0.2], [0.2, 0.8]])
        >>> with_rate(noise_matrix, 0.1, torch.tensor([0.5, 0.5]))
        tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]])
    """
    num_classes = len(noise_matrix)
    identity = torch.eye(num_classes, dtype=noise_matrix.dtype, device=noise_matrix.device)
    wrong = 1.0 - noise_matrix.diagonal()
    before = float((frequencies.to(wrong) * wrong).sum())
    if rate <= before:
        return identity + rate / max(before, 1e-9) * (noise_matrix - identity)
    largest = 1.0 - 1.0 / num_classes
    added = min(1.0, (rate - before) / max(largest - before, 1e-9))
    return (1.0 - added) * noise_matrix + added / num_classes
