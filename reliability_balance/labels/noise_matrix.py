"""The noise matrix T from J, the joint distribution of true class and given label."""

from torch import Tensor


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
