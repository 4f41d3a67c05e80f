"""Calibrate the balancer's branches before they are fused, and the fused distribution after it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import _checks
from reliability_balance import functional as RF
from reliability_balance._scaling import minimise, tempered
from reliability_balance.calibration import TemperatureScaling, held_out
from reliability_balance.output import BalancerOutput

BRANCHES = ("logits", "anchor_log_probs", "attentive_log_probs")


class BranchTemperatures(nn.Module):
    r"""A temperature for each branch, and one for their fusion.

    .. math:: \hat p = softmax(\log fuse(l^{1/T_1}, fuse(t_g^{1/T_2}, t_a^{1/T_3})) / T_4)

    where fuse is the confidence-weighted mean (Eq. 18, 19) and the powers are scaled to sum to 1.
    Fusion weighs a branch by how sure it looks, so a branch that looks surer than it may pulls too
    hard; its own temperature puts that right. The last one is needed since a mean of calibrated
    distributions is not calibrated, but too flat.

    All four are fitted together, by L-BFGS on the negative log-likelihood of the held-out labels,
    from where :class:`TemperatureScaling` of the corrected distribution ends. It keeps that where
    the fit gains nothing, so on the held-out data it is never worse, nor worse than without
    calibration. It can change the predicted class.

    Args:
        correction_weight: as in the :class:`ReliabilityBalancer`, >= 0; 0 uses the primary branch
            alone.

    Shape:
        - output: a :class:`BalancerOutput` of B samples; returns (B, C) log-probabilities.

    State:
        ``temperatures`` (4,), a buffer: of the primary, anchor and attentive branch and of the
        fusion; 1 until fitted, and for a branch that is switched off. The same on all ranks that
        fit the same data.

    Raises:
        TypeError: on a wrong dtype, or if `output` is no :class:`BalancerOutput`.
        ValueError: on wrong shapes or values, or where a branch has probabilities for logits.

    Differs from paper: not in it.

    Reference: Ranjan and Gneiting, Combining Probability Forecasts, JRSS-B 2010, on why the mean of
        calibrated distributions is not calibrated.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> output = ReliabilityBalancer(16, num_classes=3).eval()(torch.randn(50, 16))
        >>> calibration = BranchTemperatures().fit(output, torch.arange(50) % 3)
        >>> calibration(output).exp().sum(-1).allclose(torch.ones(50))
        True
    """

    temperatures: Tensor

    def __init__(self, *, correction_weight: float = 1.0) -> None:
        super().__init__()
        _checks.non_negative("correction_weight", correction_weight)
        self.correction_weight = correction_weight
        self.register_buffer("temperatures", torch.ones(4))

    def forward(self, output: BalancerOutput) -> Tensor:
        """Return the calibrated log-probabilities of the corrected distribution."""
        return self._fuse(output, self.temperatures)

    @torch.no_grad()
    def fit(self, output: BalancerOutput, labels: Tensor) -> Self:
        """Find the temperatures.

        Args:
            output: what the balancer says of held-out data, in eval mode.
            labels: their class indices, or class probabilities.

        Shape:
            - output: of N samples; labels: (N,) int64 or (N, C) floating.

        Raises:
            TypeError: on a wrong dtype, or if `output` is no :class:`BalancerOutput`.
            ValueError: on wrong shapes or values, or where a branch has probabilities for logits.
        """
        if not isinstance(output, BalancerOutput):
            raise TypeError(f"`output` must be a BalancerOutput; got {type(output).__name__}")
        branches = {name: getattr(output, name) for name in BRANCHES}
        scores = {
            name: held_out(branch, labels, name)
            for name, branch in branches.items()
            if branch is not None
        }
        targets = scores["logits"][1]
        wide = output._replace(**{name: branch for name, (branch, _) in scores.items()})
        self.temperatures.fill_(1.0)
        single = TemperatureScaling().to(targets.device).fit(self(output), labels)
        self.temperatures[3] = single.temperature
        start, before = self.temperatures.clone(), self._nll(output, targets)

        log_temperatures = start.to(targets).log().requires_grad_()  # so that they stay positive

        def loss() -> Tensor:
            return F.cross_entropy(self._fuse(wide, log_temperatures.exp()), targets)

        minimise(loss, [log_temperatures])
        self.temperatures.copy_(log_temperatures.detach().exp())
        # Judged in the precision that predictions will have.
        if not self._nll(output, targets) < before:
            self.temperatures.copy_(start)
        return self

    def _nll(self, output: BalancerOutput, targets: Tensor) -> float:
        return float(F.cross_entropy(self(output).to(targets.dtype), targets))

    def _fuse(self, output: BalancerOutput, temperatures: Tensor) -> Tensor:
        """Eq. 18 and 19 of the scaled branches that there are, scaled once more."""
        first, *corrections = (
            tempered(scores, temperature)
            for scores, temperature in zip(
                (output.logits, output.anchor_log_probs, output.attentive_log_probs),
                temperatures[:3],
                strict=True,
            )
            if scores is not None
        )
        if corrections and self.correction_weight > 0:
            correction = corrections[0] if len(corrections) == 1 else RF.log_fuse(*corrections)
            first = RF.log_fuse(first, correction, second_weight=self.correction_weight)
        return tempered(first, temperatures[3])

    def extra_repr(self) -> str:
        """Name setting and temperatures."""
        told = ", ".join(f"{value:.4g}" for value in self.temperatures.tolist())
        return f"correction_weight={self.correction_weight}, temperatures=[{told}]"
