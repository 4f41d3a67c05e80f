"""How large the classes are in what is believed of the samples, and how well each is known."""

import torch
from torch import Tensor, nn

from reliability_balance import functional as RF


class ClassShares(nn.Module):
    r"""Keep each class its share through sharpening, and count the samples it is recognised in.

    Over about an epoch, sums are kept of the averages, of the beliefs p made of them and of their
    squares. The tilt b, which is added to the logarithms before the softmax that sharpens, moves
    until the first two agree in each class. Of class c are recognised

    .. math:: m_c = \frac{N \, \mathrm{Var}(p_c)}{1 - \mathrm{mean}(p_c)}

    samples: all that it has, where beliefs are certain, and none where each sample is believed to
    be of it as likely as any other.

    Args:
        num_samples: N.
        num_classes: C.

    State:
        ``shares`` (2, C), mean averages and p, which are even at first so that the tilt starts
        gently; ``moments`` (2, C), sums over N of p and of its squares; ``tilt`` (C,), b.
    """

    shares: Tensor
    moments: Tensor
    tilt: Tensor

    def __init__(self, num_samples: int, num_classes: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.register_buffer("shares", torch.full((2, num_classes), 1.0 / num_classes))
        self.register_buffer("moments", torch.zeros(2, num_classes))
        self.register_buffer("tilt", torch.zeros(num_classes))

    def update(self, average: Tensor, beliefs: Tensor, known: Tensor) -> None:
        """Take in the samples (B, C) that are known, which are (B, 1)."""
        rows = torch.cat([RF.widen(average), beliefs, beliefs.square()], -1)
        with RF._without_autocast(rows):
            sums = (known.to(rows.dtype).T @ rows).reshape(3, -1)
        news = sums.to(self.shares.dtype) / self.num_samples
        step = news[0].sum().clamp_max(1.0)
        self.moments.mul_(1.0 - step).add_(news[1:])
        self.shares.mul_(1.0 - step).add_(news[:2])
        before, after = self.shares.clamp_min(torch.finfo(self.shares.dtype).tiny).log()
        self.tilt.add_(step * (before - after))

    def evidence(self, given: Tensor, prior_count: float) -> Tensor:
        """How far to act on doubts of labels (B, C), in [0, 1]: m / (m + prior count) of theirs."""
        # Above zero, so that without a prior count all doubts are acted on.
        recognised = self.recognised() + torch.finfo(self.moments.dtype).tiny
        weight = recognised / (recognised + prior_count)
        return (given * weight.to(given.dtype)).sum(-1, keepdim=True)

    def recognised(self) -> Tensor:
        """How many samples of each class (C,) the beliefs tell from the others: m above."""
        beliefs, squares = self.moments
        share = beliefs / beliefs.sum().clamp_min(torch.finfo(beliefs.dtype).tiny)
        spread = (squares - beliefs * share).clamp_min(0.0)
        others = self.num_samples * (1.0 - share)  # less than one is rounding
        recognised: Tensor = self.num_samples**2 * spread / others.clamp_min(1.0)
        return recognised
