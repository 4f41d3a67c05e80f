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
        ``sums`` (3, C), over N, of averages, p and p squared, and ``tilt`` (C,), b.
    """

    sums: Tensor
    tilt: Tensor

    def __init__(self, num_samples: int, num_classes: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.register_buffer("sums", torch.zeros(3, num_classes))
        self.register_buffer("tilt", torch.zeros(num_classes))

    def update(self, average: Tensor, beliefs: Tensor, known: Tensor) -> None:
        """Take in the samples (B, C) that are known, which are (B, 1)."""
        average, beliefs = (RF.widen(each) * known for each in (average, beliefs))
        news = torch.stack([average.sum(0), beliefs.sum(0), beliefs.square().sum(0)])
        news = (news / self.num_samples).to(self.sums.dtype)
        step = news[0].sum().clamp_max(1.0)
        self.sums.mul_(1.0 - step).add_(news)
        before, after, _ = self.sums.clamp_min(torch.finfo(self.sums.dtype).tiny).log()
        self.tilt.add_(step * (before - after))

    def evidence(self, given: Tensor, prior_count: float) -> Tensor:
        """How far to act on doubts of labels (B, C), in [0, 1]: m / (m + prior count) of theirs."""
        # Above zero, so that without a prior count all doubts are acted on.
        recognised = self.recognised() + torch.finfo(self.sums.dtype).tiny
        weight = recognised / (recognised + prior_count)
        return (given * weight.to(given.dtype)).sum(-1, keepdim=True)

    def recognised(self) -> Tensor:
        """How many samples of each class (C,) the beliefs tell from the others: m above."""
        _, beliefs, squares = self.sums
        tiny = torch.finfo(beliefs.dtype).tiny
        share = beliefs / beliefs.sum().clamp_min(tiny)
        spread = (squares - beliefs * share).clamp_min(0.0)
        others = self.num_samples * (1.0 - share)  # less than one is rounding
        recognised: Tensor = self.num_samples**2 * spread / others.clamp_min(1.0)
        return recognised
