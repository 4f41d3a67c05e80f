"""Labels of several annotators: one column each, -1 where an annotator gave none."""

import torch
from torch import Tensor

from reliability_balance import checks

# The largest prime below 2^27, so that hashes in steps of 16 fit into int32.
HASH_PRIME, HASH_STEP = 134_217_689, 16
NO_LABEL = -1


def check_labels(labels: Tensor, count: int, num_annotators: int) -> None:
    """Require int64 labels (count, num_annotators).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on a wrong shape.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"`labels` of several annotators must be an int64 tensor; got {got}")
    if tuple(labels.shape) != (count, num_annotators):
        raise ValueError(
            "`labels` must have a row for each sample and a column for each annotator, "
            f"({count}, {num_annotators}); got {tuple(labels.shape)}"
        )


def check_values(labels: Tensor, num_classes: int) -> None:
    """Require class indices, or -1 for no label.

    Raises:
        ValueError: on other values.
    """
    if not checks.can_read_values() or labels.numel() == 0:
        return
    if int(labels.min()) < NO_LABEL or int(labels.max()) >= num_classes:
        raise ValueError(
            f"`labels` of annotators must lie in [0, {num_classes}), or be -1 for no label; "
            f"got values from {int(labels.min())} to {int(labels.max())}"
        )


def as_votes(labels: Tensor, like: Tensor) -> Tensor:
    """One-hot encode labels (B, A) to (B, A, C), zeros for no label; `like` is (B, C)."""
    classes = torch.arange(like.shape[-1], device=labels.device)
    return (labels.unsqueeze(-1) == classes).to(like.dtype)


def check_labelled(labels: Tensor, num_classes: int) -> None:
    """Require class indices or -1 in labels (B, A), and at least one label for each sample.

    Raises:
        ValueError: on other values, or on samples without a label.
    """
    check_values(labels, num_classes)
    if not checks.can_read_values():
        return
    empty = (labels < 0).all(-1)
    if bool(empty.any()):
        raise ValueError(
            "`labels` must hold at least one label for each sample; got none for "
            f"{int(empty.sum())} of {len(labels)} samples, the first of them sample "
            f"{int(empty.nonzero()[0])}: leave these out"
        )


def check_all(labels: Tensor, num_classes: int) -> None:
    """Require the labels of all samples, (N, A); reject one-hot labels and vote counts.

    Raises:
        ValueError: on wrong values, on samples without a label, and on one-hot labels or vote
            counts (N, C).
    """
    if labels.shape[1] == num_classes > 2 and bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(
            f"`labels` of dtype int64 and shape (N, {num_classes}) are class indices of "
            f"{num_classes} annotators; got only zeros and ones, as in one-hot or multi-hot "
            "labels. Give these as floating shares: labels / labels.sum(-1, keepdim=True)"
        )
    if labels.shape[1] == num_classes < len(labels) and bool((labels >= 0).all()):
        # All rows of vote counts have the same sum; rows of class indices only by chance.
        sums = labels.sum(-1)
        if bool((sums == sums[0]).all()) and bool((labels != labels[0]).any()):
            raise ValueError(
                f"`labels` of dtype int64 and shape (N, {num_classes}) are class indices of "
                f"{num_classes} annotators; got rows that all sum to {int(sums[0])}, as one-hot "
                "labels or vote counts do. Give these as floating shares: "
                "labels / labels.sum(-1, keepdim=True)"
            )
    check_labelled(labels, num_classes)


def codes(labels: Tensor) -> Tensor:
    """Hash the labels (B, A) of each sample to int32 codes (B,).

    Unlike the mean class, the hash depends on who gave which label.
    """
    weights = 1 + torch.arange(labels.shape[1], device=labels.device)
    for _ in range(3):  # computed on the device: copying from the host would synchronize
        weights = (weights * weights + 48_271) % HASH_PRIME
    return (((labels + 1) * weights % HASH_PRIME).sum(-1) % HASH_PRIME * HASH_STEP).int()
