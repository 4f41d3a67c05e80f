"""The noise matrix T from J, which counts how samples of each class were labelled."""

from torch import Tensor


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
