"""Class shares of the posteriors, and how well the model has learned each class."""

import torch
from torch import Tensor, nn

from reliability_balance import numerics


class ClassShares(nn.Module):
    r"""Class bias that undoes the shift of class shares by sharpening, and learned counts m.

    Running sums over about one epoch are kept of the averaged predictions, of the sharpened ones
    (beliefs p) and of p squared. The class bias b is added to the log-probabilities before the
    softmax; it is updated until both have the same mean in each class. The number of learned
    samples of class c is

    .. math:: m_c = \frac{N \, \mathrm{Var}(p_c)}{1 - \mathrm{mean}(p_c)}

    which is the class size if p is one-hot, and 0 if p_c is the same for all samples.

    Args:
        num_samples: N.
        num_classes: C.

    State:
        ``shares`` (2, C), means of the averages and of p, uniform at first so that b changes
        slowly; ``moments`` (2, C), sums of p and of p squared over N; ``class_bias`` (C,), b.
    """

    shares: Tensor
    moments: Tensor
    class_bias: Tensor

    def __init__(self, num_samples: int, num_classes: int) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.register_buffer("shares", torch.full((2, num_classes), 1.0 / num_classes))
        self.register_buffer("moments", torch.zeros(2, num_classes))
        self.register_buffer("class_bias", torch.zeros(num_classes))

    def collect(self, average: Tensor, beliefs: Tensor, known: Tensor) -> Tensor:
        """Return sums (3, C) of averages, beliefs and their squares (B, C) over N.

        Only of samples where `known` (B, 1) is true. `beliefs` may be overwritten.
        """
        average, weight = numerics.widen(average), known.to(beliefs.dtype).T
        with numerics.without_autocast(beliefs):
            if beliefs.shape[-1] <= numerics.FEW_CLASSES:  # one product is faster
                stacked = weight @ torch.cat([average, beliefs, beliefs.square()], -1)
            else:
                stacked = torch.cat(
                    [weight @ average, weight @ beliefs, weight @ beliefs.square_()]
                )
            stacked = stacked.reshape(3, -1)
        return stacked.to(self.shares.dtype) / self.num_samples

    def add(self, sums: Tensor) -> None:
        """Update with the sums (3, C) of a batch."""
        step = sums[0].sum().clamp_max(1.0)
        left = 1.0 - step
        self.moments.mul_(left).add_(sums[1:])
        self.shares.mul_(left).add_(sums[:2])
        before, after = self.shares.clamp_min(torch.finfo(self.shares.dtype).tiny).log()
        self.class_bias.addcmul_(before - after, step)

    def posterior_weight(self, given: Tensor, prior_count: float) -> Tensor:
        """Return the weight (B, 1) of the posterior against given labels, in [0, 1].

        It is m / (m + prior count), averaged over the classes of the label; labels are indices
        (B,) or probabilities (B, C).
        """
        spread, others = self._spread()
        # Above zero, so that the weight is 1 without a prior count.
        spread = spread.clamp_min(torch.finfo(spread.dtype).tiny)
        weight = spread / spread.add(others, alpha=prior_count / self.num_samples)
        if not given.is_floating_point():
            return weight[given].unsqueeze(-1)
        return (given * weight.to(given.dtype)).sum(-1, keepdim=True)

    def learned_counts(self) -> Tensor:
        """Return m (C,): how many samples of each class the model has learned to distinguish."""
        spread, others = self._spread()
        return self.num_samples * spread / others

    def _spread(self) -> tuple[Tensor, Tensor]:
        """Return the numerator of m / N, and its denominator, (C,)."""
        beliefs, squares = self.moments
        share = beliefs / beliefs.sum().clamp_min(torch.finfo(beliefs.dtype).tiny)
        spread = squares.addcmul(beliefs, share, value=-1).clamp_min(0.0)
        others = (1.0 - share).clamp_min(1.0 / self.num_samples)  # less is a rounding error
        return spread, others

    def add_samples(self, count: int) -> None:
        """Raise N; the learned counts stay."""
        self.moments.mul_(self.num_samples / (self.num_samples + count))
        self.num_samples += count

    def add_classes(self, count: int) -> None:
        """Append classes of the initial share 1 / C, taken from the others in proportion."""
        before = len(self.class_bias)
        share = 1.0 / (before + count)
        self.shares = nn.functional.pad(before * share * self.shares, (0, count), value=share)
        self.moments = nn.functional.pad(self.moments, (0, count))
        self.class_bias = nn.functional.pad(self.class_bias, (0, count))
