"""The noise matrix T from J, which counts how samples of each class were labelled."""

import torch
from torch import Tensor


def first_joint(like: Tensor) -> Tensor:
    """Before anything is known: classes are as frequent, a label is right one time in two.

    (C, C), beside a tensor (C,): made on the host it would wait for the device at each step.
    """
    num_classes = len(like)
    identity = torch.eye(num_classes, dtype=like.dtype, device=like.device)
    return (identity + 1.0 / num_classes) / (2.0 * num_classes)


def as_noise_matrix(joint: Tensor, num_samples: int) -> Tensor:
    """Rows (C, C) that sum to one, of J (C, C), which is a share of the samples."""
    # One sample's worth of the start keeps the rows of classes that were never met.
    share = 1.0 / (2.0 * len(joint) * num_samples)
    joint = joint + share / len(joint)
    joint.diagonal().add_(share)
    # No wrong label is more frequent than the right one: else two classes could change places.
    joint = joint.minimum(joint.diagonal().unsqueeze(-1))
    return joint / joint.sum(-1, keepdim=True)
