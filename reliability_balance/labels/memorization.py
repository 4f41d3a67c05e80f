"""How much of a prediction is only the memory of the sample's own label."""

import torch
from torch import Tensor, nn

from reliability_balance import functional as RF

# Added to the slope, so that samples that remember little cannot tell of much: leans towards 0.
SLOPE_PRIOR = 0.5
# A stream of random numbers that users do not draw from: wrong or missing labels that they plant by
# a small seed must not fall on just the control group.
OWN_STREAM = 7_919_317
# Share of an epoch, and held-back labels, from which on it can be told what is memory.
KNOWN_FROM, SMALLEST_CONTROL = 0.5, 30


class Memorization(nn.Module):
    r"""Take out of predictions what training on the sample's own label put into them.

    A step of cross-entropy moves a sample's own logits along target minus prediction. So a sample
    that was trained on at earlier times s would have been predicted without it as

    .. math:: \tilde p = \mathrm{softmax}\Big(\log p - \kappa \sum_s (q_s - p_s)\Big)

    where q are its targets then, p its predictions, and kappa, how strongly the network remembers,
    is one number. It is learned by a control group whose labels the network is not shown: the
    others' freed predictions must not know their labels better than the control group's do,

    .. math:: \mathrm{mean}_{\mathrm{others}} \log \tilde p_y = \mathrm{mean}_{\mathrm{control}}
        \log p_y

    which is solved by one Newton step from sums over about an epoch.

    Args:
        num_samples: N.
        num_classes: C.
        share: of the samples that form the control group, in (0, 1); they are drawn alike each
            time, so that all ranks hold back the same labels.
        dtype: of the N C numbers that are kept.

    State:
        ``control`` (N,) bool, ``residual`` (N, C), the sum above, ``strength`` (), kappa, and
        ``sums`` (2, 3), of others and control group: how many, their log-likelihood where kappa
        is 0, and its slope.
    """

    control: Tensor
    residual: Tensor
    strength: Tensor
    sums: Tensor

    def __init__(
        self, num_samples: int, num_classes: int, share: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(OWN_STREAM)
        draw = torch.rand(num_samples, generator=generator, device="cpu")
        self.register_buffer("residual", torch.zeros(num_samples, num_classes, dtype=dtype))
        self.register_buffer("control", (draw < share).to(self.residual.device))
        self.register_buffer("strength", torch.zeros(()))
        self.register_buffer("sums", torch.zeros(2, 3))

    def free(self, residual: Tensor, probs: Tensor) -> Tensor:
        """Predictions (B, C) without the memory of these samples' own targets."""
        return RF._softmax(_log(RF.widen(probs)) - self.strength * residual)

    def learn(
        self, residual: Tensor, given: Tensor, freed: Tensor, shown: Tensor, held: Tensor
    ) -> None:
        """Move kappa by what freed predictions (B, C) know of labels that are shown, or held back.

        Both (B, 1); a sample that is neither counts for nothing.
        """
        residual = RF.widen(residual, freed)
        known = (given * _log(freed)).sum(-1, keepdim=True)
        slope = ((given - freed) * residual).sum(-1, keepdim=True)
        told = torch.cat([torch.ones_like(known), known + self.strength * slope, slope], -1)
        with RF._without_autocast(told):
            news = torch.cat([shown, held], -1).to(told.dtype).T @ told
        news = (news / len(self.control)).to(self.sums.dtype)
        self.sums.mul_(1.0 - news[:, 0].sum().clamp_max(1.0)).add_(news)
        counts = self.sums[:, :1]
        of_others, of_control = self.sums[:, 1:] / counts.clamp_min(1e-9)
        strength = (of_others[0] - of_control[0]) / (of_others[1] + SLOPE_PRIOR)
        is_known = (counts > 0).all()
        self.strength.copy_(strength.clamp_min(0.0).where(is_known, self.strength))

    def advantage(self) -> Tensor:
        """By how many nats the network knows labels that it was shown better than held-back ones.

        (), zero while too little is known of either.
        """
        counts, known = self.sums[:, 0], self.sums[:, 1]
        means = known / counts.clamp_min(1e-9)
        is_known = (counts.sum() > KNOWN_FROM) & (counts[1] * len(self.control) >= SMALLEST_CONTROL)
        return (means[0] - means[1]).where(is_known, 0.0)

    def record(self, index: Tensor, residual: Tensor, excess: Tensor) -> None:
        """Note by how much the targets (B, C) went beyond the predictions."""
        self.residual[index] = (RF.widen(residual, excess) + excess).to(self.residual.dtype)


def _log(probs: Tensor) -> Tensor:
    """Logarithms of what rounding can tell from zero; a zero would be infinite knowledge."""
    return probs.clamp_min(torch.finfo(torch.float32).eps).log()
