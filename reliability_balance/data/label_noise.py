"""Inject label noise of a known type and rate, to measure robustness."""

import torch
from torch import Tensor

from reliability_balance import checks


def symmetric_noise(labels: Tensor, rate: float, num_classes: int, *, seed: int) -> Tensor:
    """Flip a share of the labels to another class, each with equal probability.

    Args:
        labels: the true classes.
        rate: share of wrong labels, in [0, 1].
        num_classes: C.
        seed: the same seed gives the same labels.

    Shape:
        - labels: (N,) int64 in [0, C); returns (N,) int64.

    Raises:
        TypeError: if `labels` is not int64.
        ValueError: on a wrong shape, labels out of range, or a rate out of range.

    Example:
        >>> noisy = symmetric_noise(torch.zeros(10, dtype=torch.int64), 0.4, 3, seed=0)
        >>> int((noisy != 0).sum())
        4
    """
    _check(labels, rate, num_classes)
    generator = torch.Generator().manual_seed(seed)
    chosen = _choose(len(labels), rate, generator)
    shift = torch.randint(1, num_classes, chosen.shape, generator=generator, device="cpu")
    return _shift(labels, chosen, shift, num_classes)


def pair_noise(labels: Tensor, rate: float, num_classes: int, *, seed: int) -> Tensor:
    """Flip a share of the labels to the next class, the last class to the first.

    Args:
        labels: the true classes.
        rate: share of wrong labels, in [0, 1].
        num_classes: C.
        seed: the same seed gives the same labels.

    Shape:
        - labels: (N,) int64 in [0, C); returns (N,) int64.

    Raises:
        TypeError: if `labels` is not int64.
        ValueError: on a wrong shape, labels out of range, or a rate out of range.

    Example:
        >>> pair_noise(torch.tensor([0, 1, 2]), 1.0, 3, seed=0)
        tensor([1, 2, 0])
    """
    _check(labels, rate, num_classes)
    chosen = _choose(len(labels), rate, torch.Generator().manual_seed(seed))
    return _shift(labels, chosen, torch.ones_like(chosen), num_classes)


def _check(labels: Tensor, rate: float, num_classes: int) -> None:
    checks.at_least("num_classes", num_classes, 2)
    checks.indices("labels", labels)
    checks.label_values(labels, num_classes)
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"`rate` must lie in [0, 1]; got {rate}")


def _choose(count: int, rate: float, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device="cpu")[: round(rate * count)]


def _shift(labels: Tensor, chosen: Tensor, shift: Tensor, num_classes: int) -> Tensor:
    noisy = labels.clone()
    chosen, shift = chosen.to(labels.device), shift.to(labels.device)
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy
