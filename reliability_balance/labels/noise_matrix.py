"""Noise matrices T from J, which counts how samples of each class were labelled."""

import torch
from torch import Tensor, nn

from reliability_balance import functional as RF
from reliability_balance.labels.annotators import as_votes


def first_joint(like: Tensor) -> Tensor:
    """Before anything is known: classes are as frequent, a label is right one time in two.

    (C, C), beside a tensor (C,): made on the host it would wait for the device at each step.
    """
    return _with_first(like.new_zeros(len(like), len(like)), 1.0)


def _with_first(joint: Tensor, weight: float) -> Tensor:
    """J (C, C) and :func:`first_joint` times a weight, without a matrix of the latter."""
    share = weight / (2.0 * len(joint))
    joint = joint + share / len(joint)
    joint.diagonal().add_(share)
    return joint


def as_noise_matrix(joint: Tensor, num_samples: int) -> Tensor:
    """Rows (C, C) that sum to one, of J (C, C), which is a share of the samples."""
    # One sample's worth of the start keeps the rows of classes that were never met.
    joint = _with_first(joint, 1.0 / num_samples)
    # No wrong label is more frequent than the right one: else two classes could change places.
    joint = joint.minimum(joint.diagonal().unsqueeze(-1))
    return joint / joint.sum(-1, keepdim=True)


class AnnotatorCounts(nn.Module):
    r"""Count how each annotator labels each class, and shrink the matrices to the common one.

    .. math:: J^a_{ck} \gets (1 - B/N) \, J^a_{ck} + \frac{1}{N} \sum_{i \in B, y_{ia} = k} q'_{ic},
        \quad T^a_{ck} = \frac{N J^a_{ck} + s T_{ck}}{\sum_k N J^a_{ck} + s}

    where q' is the posterior given the labels of all annotators and T the common matrix. An
    annotator who gave few labels of a class has nearly the common row there. As in the common one,
    a wrong label counts at most as often as the right one.

    Args:
        num_annotators: A.
        num_classes: C.
        prior: s, in labels of a class, >= 0.

    State:
        ``joint`` (A, C, C), J above: shares of the samples.
    """

    joint: Tensor

    def __init__(self, num_annotators: int, num_classes: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("joint", torch.zeros(num_annotators, num_classes, num_classes))

    def update(self, posterior: Tensor, labels: Tensor, num_samples: int) -> None:
        """Take in the posteriors (B, C) of samples and their labels (B, A); zeros do not count."""
        posterior = RF.widen(posterior)
        with RF._without_autocast(posterior):
            votes = as_votes(labels, posterior)
            # A matrix product, since an indexed sum differs between ranks by rounding.
            counts = (posterior.T @ votes.flatten(1)).unflatten(1, votes.shape[1:])
            new = counts.transpose(0, 1).to(self.joint.dtype) / num_samples
            share = posterior.sum().to(self.joint.dtype) / num_samples
        self.joint.mul_((1.0 - share).clamp_min(0.0)).add_(new)

    def matrices(self, common: Tensor, num_samples: int) -> Tensor:
        """T^a (A, C, C), with rows that sum to one; `common` is T (C, C)."""
        # A thousandth of a label keeps rows without any label.
        counts = num_samples * self.joint + max(self.prior, 1e-3) * common
        right = counts.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        counts = counts.minimum(right)
        return counts / counts.sum(-1, keepdim=True)
