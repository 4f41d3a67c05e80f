"""Labels as given: required types and values, codes to recognise changes, repeated batches."""

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance.labels import annotators

# Labels are compared by a code, their mean class on an uneven scale; soft ones differ by rounding.
CODE_STEPS, CODE_TOLERANCE = 1024, 8
GOLDEN = 0.6180339887


def is_of_annotators(labels: Tensor) -> bool:
    """Return whether these are labels of several annotators, int64 with a column for each."""
    return isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 2


def check_labels(labels: Tensor, count: int, num_classes: int, num_annotators: int) -> None:
    """Require the dtype and shape of labels of `count` samples.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on a wrong shape.
    """
    if num_annotators:
        annotators.check_labels(labels, count, num_annotators)
    else:
        checks.labels(labels, torch.Size([count]), num_classes)


def check_label_values(labels: Tensor, num_classes: int) -> None:
    """Require valid values, and of annotators at least one label for each sample.

    Raises:
        ValueError: on other values.
    """
    if is_of_annotators(labels):
        annotators.check_labelled(labels, num_classes)
    else:
        checks.label_values(labels, num_classes)


def label_codes(labels: Tensor, num_classes: int) -> Tensor:
    """Return an integer code for each label (B,): its mean class, to float16 resolution.

    For several annotators' labels a hash, which also depends on who gave them.
    """
    if is_of_annotators(labels):
        return annotators.codes(labels)
    if not labels.is_floating_point():
        return _places(labels).round().int()
    wide = labels.to(torch.promote_types(labels.dtype, torch.float32))
    places = _places(torch.arange(num_classes, device=labels.device))
    return (wide * places).sum(-1).round().int()


def _places(classes: Tensor) -> Tensor:
    """Return the codes of classes, of any shape.

    Steps are uneven, so that half of each of two classes is seldom the class between them.
    """
    classes = classes.float()
    return CODE_STEPS * (classes + 0.5 * (GOLDEN * classes).frac())


def differing(before: Tensor, codes: Tensor) -> Tensor:
    """Return where (B,) label codes differ from earlier ones; -1 stands for no earlier label."""
    return (before >= 0) & ((before - codes).abs() > CODE_TOLERANCE)


def check_unchanged(index: Tensor, before: Tensor, codes: Tensor) -> None:
    """Require equal label codes (B,) of samples (B,).

    Raises:
        ValueError: on other codes.
    """
    if torch.equal(before, codes):
        return
    other = differing(before, codes)
    if bool(other.any()):
        raise ValueError(
            "`labels` must be those that the samples of `index` have had before; got other "
            f"labels for {int(other.sum())} of {len(index)} samples, the first of them sample "
            f"{int(index[other][0])}. Does `index` count from 0 in each process, worker or "
            "subset, or in shuffled order? It must be the place in the training set. For "
            "corrected labels create new targets"
        )


def checked_copy(labels: Tensor, num_classes: int) -> Tensor:
    """Check the labels of all samples and copy them to the CPU.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on a wrong shape, values, or fewer than 2 labels.
    """
    shape = torch.Size([len(labels)]) if isinstance(labels, Tensor) and labels.ndim else None
    if isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 1:
        missing = int((labels < 0).sum())
        if missing:
            raise ValueError(
                f"`labels` must be class indices in [0, {num_classes}); got {missing} below 0 of "
                f"{len(labels)}: leave out samples without a label, also from the data set"
            )
    if is_of_annotators(labels):
        annotators.check_all(labels, num_classes)
    else:
        checks.labels(labels, torch.Size([0]) if shape is None else shape, num_classes)
        checks.label_values(labels, num_classes)
    if len(labels) < 2:
        raise ValueError(f"`labels` must be those of all samples, at least 2; got {len(labels)}")
    return labels.detach().cpu().clone()


class RepeatedCalls:
    """Detector of three successive batches that each come more than once in a row.

    One repeated batch can be an epoch: the batch may hold all samples. Three different batches,
    each repeated, cannot: the last batch of an epoch may be the first of the next one, but twice in
    succession only if an epoch has two batches, which then alternate.
    """

    def __init__(self) -> None:
        self._last: list[Tensor] = []  # up to three different batches, newest first
        self._repeated = 0  # how many batches in a row before the newest were repeated
        self._repeats = 0  # repetitions of the newest batch

    def check(self, samples: Tensor) -> None:
        """Record the sorted sample indices (B,) of one call.

        Raises:
            ValueError: if this is the third repeated batch in a row.
        """
        if self._last and _same_samples(samples, self._last[0]):
            self._repeats += 1
        else:
            self._repeated = self._repeated + 1 if self._repeats else 0
            self._last = [samples, *self._last[:2]]
            self._repeats = 0
        if self._repeats and self._repeated >= 2 and not _same_samples(samples, self._last[2]):
            raise ValueError(
                "`index` must name the samples of a step once; got each of three batches more than "
                "once in a row, which would count as more epochs. Call with update=False from the "
                "second time on (SAM), or give RobustLoss the other view as `second`"
            )


def _same_samples(first: Tensor, second: Tensor) -> bool:
    return first.device == second.device and torch.equal(first, second)
