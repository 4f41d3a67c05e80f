"""Training targets that trust a label only as far as the model's own history bears it out."""

import torch
from torch import Tensor, distributed, nn

from reliability_balance import _checks
from reliability_balance import functional as RF


def label_trust(average: Tensor, labels: Tensor) -> Tensor:
    r"""How far the running average bears out each label: 1 where it is the likeliest class.

    .. math:: w = \frac{\sum_c y_c \, \bar p_c}{\max_c \bar p_c}

    where y is the label, one-hot or soft, and \bar p the running average of the predictions.

    Args:
        average: probabilities.
        labels: class indices or class probabilities.

    Shape:
        - average: (B, C) floating; labels: (B,) int64 or (B, C) floating; returns (B,) in [0, 1].

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes.

    Example:
        >>> average = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
        >>> label_trust(average, torch.tensor([0, 1]))
        tensor([1.0000, 0.5000])
    """
    _checks.distributions("average", average)
    _checks.labels(labels, average.shape[:-1], average.shape[-1])
    average = RF.widen(average)
    likeliest = average.amax(-1).clamp_min(torch.finfo(average.dtype).tiny)
    if labels.is_floating_point():
        borne_out = (labels.to(average.dtype) * average).sum(-1)
    else:
        borne_out = average.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return borne_out / likeliest


def refurbish(average: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    r"""Mix each label with the running average, by how far the average bears the label out.

    .. math:: \tilde y = w \, y + (1 - w) \, \mathrm{softmax}(\log \bar p / \tau)

    with w from :func:`label_trust` and tau the temperature. No noise rate is needed: a label that
    the history supports stays as it is, one that it contradicts is replaced.

    Args:
        average: probabilities.
        labels: class indices or class probabilities.
        temperature: tau > 0; below 1 sharpens the average.

    Shape:
        - average: (B, C) floating; labels: (B,) int64 or (B, C) floating; returns (B, C).

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes, or temperature <= 0.

    Example:
        >>> average = torch.tensor([[0.6, 0.3, 0.1]])
        >>> refurbish(average, torch.tensor([1]), temperature=1.0)
        tensor([[0.3000, 0.6500, 0.0500]])
    """
    _checks.positive("temperature", temperature)
    trust = label_trust(average, labels).unsqueeze(-1)
    average = RF.widen(average)
    tiny = torch.finfo(average.dtype).tiny
    sharpened = (average.clamp_min(tiny).log() / temperature).softmax(-1)
    return trust * _as_probabilities(labels, average) + (1.0 - trust) * sharpened


def _as_probabilities(labels: Tensor, like: Tensor) -> Tensor:
    if labels.is_floating_point():
        return labels.to(like.dtype)
    return nn.functional.one_hot(labels, like.shape[-1]).to(like.dtype)


class RefurbishedTargets(nn.Module):
    """Soft targets for each training sample, from its label and what the model made of it so far.

    Each call takes a batch's predictions into the samples' running averages and returns the
    targets to train on: the labels while a sample is new, :func:`refurbish` afterwards. Beyond
    the paper; after the idea of learning from one's own earlier predictions (Liu et al., NeurIPS
    2020, https://arxiv.org/abs/2007.00151), but with the label's weight taken from the history.

    Args:
        num_samples: N, the size of the training set; samples are named by their index in it.
        num_classes: C.
        momentum: share of the old average that an update keeps, in [0, 1).
        temperature: of the average in the targets, > 0; below 1 sharpens.
        warmup: updates of a sample before its target moves away from its label, >= 0.
        dtype: of the running averages; ``torch.float16`` halves their memory of N C numbers.
        validate_args: whether to check values, which waits for the device.

    Shape:
        - index: (B,) int64 in [0, N); labels: (B,) int64 or (B, C) floating; probs: (B, C) floating
          probabilities, which get no gradient; returns (B, C) float32 or wider.

    State:
        ``average`` (N, C) and ``updates`` (N,) int32. In each call all ranks' batches are gathered,
        so that every rank holds the same state. Keep the module outside DistributedDataParallel,
        which would send rank 0's buffers around once more, and save it with the model.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong sizes, shapes or values.

    Example:
        >>> targets = RefurbishedTargets(num_samples=100, num_classes=2, warmup=1)
        >>> index, labels = torch.tensor([7, 9]), torch.tensor([0, 1])
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
        >>> targets(index, labels, probs)
        tensor([[1.0000, 0.0000],
                [0.6590, 0.3410]])
    """

    average: Tensor
    updates: Tensor

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        *,
        momentum: float = 0.9,
        temperature: float = 0.7,
        warmup: int = 3,
        dtype: torch.dtype = torch.float32,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        _checks.at_least("num_samples", num_samples, 1)
        _checks.at_least("num_classes", num_classes, 2)
        _checks.at_least("warmup", warmup, 0)
        _checks.positive("temperature", temperature)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1); got {momentum}")
        if not dtype.is_floating_point:
            raise TypeError(f"`dtype` must be floating; got {dtype}")
        self.momentum = momentum
        self.temperature = temperature
        self.warmup = warmup
        self.validate_args = validate_args
        self.register_buffer("average", torch.zeros(num_samples, num_classes, dtype=dtype))
        self.register_buffer("updates", torch.zeros(num_samples, dtype=torch.int32))

    @torch.no_grad()
    def forward(self, index: Tensor, labels: Tensor, probs: Tensor) -> Tensor:
        """Take in the predictions of one batch and return its targets."""
        self._check(index, labels, probs)
        self._update(*_gather_ranks(index, probs))
        average = RF.widen(self.average[index])
        warm = (self.updates[index] >= self.warmup).unsqueeze(-1)
        refurbished = refurbish(average, labels, temperature=self.temperature)
        return refurbished.where(warm, _as_probabilities(labels, average))

    def trust(self, index: Tensor, labels: Tensor) -> Tensor:
        """How far the history bears out each label, in [0, 1]; low values are doubtful labels.

        Args:
            index: the samples.
            labels: their labels.

        Shape:
            - index: (B,) int64; labels: (B,) int64 or (B, C) floating; returns (B,).

        Raises:
            ValueError: if a sample has never been seen.
        """
        if self.validate_args and _checks.can_read_values() and not bool(self.updates[index].all()):
            unseen = int((self.updates[index] == 0).sum())
            raise ValueError(f"`index` must name samples that were trained on; got {unseen} unseen")
        return label_trust(self.average[index], labels)

    def _update(self, index: Tensor, probs: Tensor) -> None:
        old = RF.widen(self.average[index])
        momentum = self.momentum * (self.updates[index] > 0).to(old.dtype).unsqueeze(-1)
        new = momentum * old + (1.0 - momentum) * probs.to(old.dtype)
        self.average[index] = new.to(self.average.dtype)
        self.updates[index] += 1

    def _check(self, index: Tensor, labels: Tensor, probs: Tensor) -> None:
        num_samples, num_classes = self.average.shape
        _checks.indices("index", index)
        _checks.floating("probs", probs)
        if probs.shape != (len(index), num_classes):
            raise ValueError(
                f"`probs` must have shape (B, C) = ({len(index)}, {num_classes}); "
                f"got {tuple(probs.shape)}"
            )
        _checks.labels(labels, index.shape, num_classes)
        if self.validate_args:
            _checks.index_values("index", index, num_samples)
            _checks.label_values(labels, num_classes)
            _checks.finite("probs", probs)

    def extra_repr(self) -> str:
        """Name the sizes and settings."""
        num_samples, num_classes = self.average.shape
        return (
            f"num_samples={num_samples}, num_classes={num_classes}, momentum={self.momentum}, "
            f"temperature={self.temperature}, warmup={self.warmup}"
        )


def _gather_ranks(index: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Join the batches of all ranks, which may differ in size; alone, return the arguments."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return index, probs
    world_size = distributed.get_world_size()
    if world_size == 1:
        return index, probs
    sizes = [torch.zeros(1, dtype=torch.int64, device=index.device) for _ in range(world_size)]
    distributed.all_gather(sizes, torch.tensor([len(index)], device=index.device))
    counts = [int(size) for size in sizes]
    padding = max(counts) - len(index)
    index = nn.functional.pad(index, (0, padding))
    probs = nn.functional.pad(probs, (0, 0, 0, padding))
    all_index = [torch.empty_like(index) for _ in counts]
    all_probs = [torch.empty_like(probs) for _ in counts]
    distributed.all_gather(all_index, index)
    distributed.all_gather(all_probs, probs.contiguous())
    pairs = list(zip(all_index, all_probs, counts, strict=True))
    return (
        torch.cat([each[:count] for each, _, count in pairs]),
        torch.cat([each[:count] for _, each, count in pairs]),
    )
