"""Estimate memorization and remove it from predictions."""

import torch
from torch import Tensor, nn

from reliability_balance import numerics
from reliability_balance.labels.posterior import expectation
from reliability_balance.labels.rows import Parts, make_rows

# Added to the slope, which shrinks kappa towards 0.
SLOPE_PRIOR = 0.5
# A seed that users do not use: label noise drawn by them with a small seed must be independent of
# the control group.
OWN_STREAM = 7_919_317
# Smallest share of an epoch, and of held-back labels, for an estimate of memorization.
KNOWN_FROM, SMALLEST_CONTROL = 0.5, 30


class Memorization(nn.Module):
    r"""Correction of predictions for the memorization of the sample's own label.

    A gradient step of cross-entropy moves the logits of a sample along target minus prediction. The
    prediction without training on the sample at earlier times s is therefore approximated by

    .. math:: \tilde p = \mathrm{softmax}\Big(\log p - \kappa \sum_s (q_s - p_s)\Big)

    where q are the targets and p the predictions at these times. The scalar kappa is the strength
    of memorization. It is estimated with a control group whose labels are not trained on: debiased
    predictions of the other samples must fit their labels no better than those of the control group
    do,

    .. math:: \mathrm{mean}_{\mathrm{others}} \log \tilde p_y = \mathrm{mean}_{\mathrm{control}}
        \log p_y

    which is solved by one Newton step from running sums over about one epoch.

    Args:
        num_samples: N.
        num_classes: C.
        share: share of the samples in the control group, in (0, 1). The draw has a fixed seed, so
            that all ranks hold back the same labels.
        kept: number of classes that the residual of a sample is stored of.
        dtype: dtype of the residuals.

    State:
        ``control`` (N,) bool; ``residuals``, rows of the sum above; ``strength`` (), kappa;
        ``sums`` (2, 3), for the other samples and for the control group: their number, their
        log-likelihood at kappa 0, and its slope.
    """

    control: Tensor
    strength: Tensor
    sums: Tensor

    def __init__(
        self, num_samples: int, num_classes: int, share: float, kept: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.share = share
        self.residuals = make_rows(num_samples, num_classes, kept, dtype)
        control = self._drawn(num_samples).to(self.residuals.values.device)
        self.register_buffer("control", control)
        self.register_buffer("strength", torch.zeros(()))
        self.register_buffer("sums", torch.zeros(2, 3))

    def debias(self, residual: Tensor, probs: Tensor) -> Tensor:
        """Remove the memorization of the samples' own targets from predictions (B, C)."""
        scores = _log(numerics.widen(probs, residual))
        return numerics.softmax(scores.addcmul_(residual, self.strength, value=-1))

    def collect(
        self, residual: Tensor, given: Tensor, debiased: Tensor, shown: Tensor, held: Tensor
    ) -> Tensor:
        """Return what debiased predictions (B, C) and labels add to `sums`.

        Labels are indices (B,) or probabilities (B, C). `shown` and `held` are masks (B, 1);
        samples in neither are ignored.
        """
        residual = numerics.widen(residual, debiased)
        fit = expectation(_log(debiased), given)
        slope = expectation(residual, given) - expectation(residual, debiased)
        fit = fit.addcmul_(slope, self.strength)
        rows = torch.cat([torch.ones_like(fit), fit, slope], -1)
        with numerics.without_autocast(rows):
            sums = torch.cat([shown, held], -1).to(rows.dtype).T @ rows
        return (sums / len(self.control)).to(self.sums.dtype)

    def add(self, sums: Tensor) -> None:
        """Update kappa by the sums (2, 3) of a batch."""
        self.sums.mul_(1.0 - sums[:, 0].sum().clamp_max(1.0)).add_(sums)
        counts = self.sums[:, :1]
        of_others, of_control = self.sums[:, 1:] / counts.clamp_min(1e-9)
        strength = (of_others[0] - of_control[0]) / (of_others[1] + SLOPE_PRIOR)
        is_known = (counts > 0).all()
        self.strength.copy_(strength.clamp_min(0.0).where(is_known, self.strength))

    def log_likelihood_gap(self) -> Tensor:
        """Return the mean log-likelihood of shown labels minus that of held-back ones, in nats.

        A tensor (), 0 if there are too few of either.
        """
        counts, fits = self.sums[:, 0], self.sums[:, 1]
        means = fits / counts.clamp_min(1e-9)
        is_known = (counts.sum() > KNOWN_FROM) & (counts[1] * len(self.control) >= SMALLEST_CONTROL)
        return (means[0] - means[1]).where(is_known, 0.0)

    def with_excess(self, residual: Tensor, excess: Tensor, classes: Tensor) -> Parts:
        """Add entries of targets minus predictions to those of residuals (B, C), which sum to 0.

        Return them as `Rows.compress` does.
        """
        entries = numerics.widen(self.residuals.entries(residual, classes), excess).add_(excess)
        return self.residuals.compress_entries(entries, 0.0)

    def add_samples(self, count: int) -> None:
        """Append samples; their control group is as if they had been known from the start."""
        before = len(self.control)
        self.sums.mul_(before / (before + count))
        self.residuals.add_samples(count)
        new = self._drawn(before + count)[before:].to(self.control.device)
        self.control = torch.cat([self.control, new])

    def add_classes(self, count: int) -> None:
        """Append classes, of residual 0."""
        self.residuals.add_classes(count)

    def _drawn(self, num_samples: int) -> Tensor:
        """Draw the control group (N,); the draw of fewer samples is the start of that of more."""
        generator = torch.Generator().manual_seed(OWN_STREAM)
        return torch.rand(num_samples, generator=generator, device="cpu") < self.share


def _log(probs: Tensor) -> Tensor:
    """Return finite logarithms: probabilities are clamped to float32 resolution."""
    return probs.clamp_min(torch.finfo(torch.float32).eps).log_()
