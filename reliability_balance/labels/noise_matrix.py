"""The noise matrix T from J, the joint distribution of true class and given label."""

import torch
from torch import Tensor, nn

from reliability_balance import functional as RF
from reliability_balance.labels.annotators import as_votes

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

    def update(self, posterior: Tensor, labels: Tensor, num_samples: int) -> None:
        """Update J with posteriors (B, C) and labels (B, A) of samples; rows of 0 are ignored."""
        posterior = RF.widen(posterior)
        with RF._without_autocast(posterior):
            votes = as_votes(labels, posterior)
            # A matrix product: indexed sums differ between ranks by rounding.
            counts = (posterior.T @ votes.flatten(1)).unflatten(1, votes.shape[1:])
            new = counts.transpose(0, 1).to(self.joint.dtype) / num_samples
            share = posterior.sum().to(self.joint.dtype) / num_samples
        self.joint.mul_((1.0 - share).clamp_min(0.0)).add_(new)

    def matrices(self, common: Tensor, num_samples: int) -> Tensor:
        """Return T^a (A, C, C), whose rows sum to 1; `common` is T (C, C)."""
        # A thousandth of a label defines rows without labels.
        counts = num_samples * self.joint + max(self.prior, 1e-3) * common
        correct = counts.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        counts = counts.minimum(correct)
        return counts / counts.sum(-1, keepdim=True)


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
