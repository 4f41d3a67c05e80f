"""Calibrate the balancer's branches before fusion, and the fused distribution after it."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.calibration.fitting import (
    common_temperature,
    held_out,
    prior_weight,
    settle,
    tempered,
    warn_of_one_class,
)
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.settings import Configured

BRANCHES = ("logits", "anchor_log_probs", "attentive_log_probs")
LARGEST = math.log(1e2)  # log-temperature


class BranchTemperatures(Configured):
    r"""A temperature for each branch, and one for their fusion.

    .. math:: \hat p = softmax(\log fuse(l^{1/T_1}, fuse(t_g^{1/T_2}, t_a^{1/T_3})) / T_4)

    where fuse is the confidence-weighted mean (Eq. 18, 19) and the powers are scaled to sum to 1.
    Fusion weights a branch by its confidence, so an overconfident branch gets too much weight; its
    own temperature corrects this. The last temperature is needed because a mean of calibrated
    distributions is underconfident.

    All four are fitted jointly, by L-BFGS on the negative log-likelihood of the held-out labels,
    under the weak prior of :mod:`calibration` on their logarithms, centred on 0. The fit starts at
    the :class:`TemperatureScaling` of the corrected distribution and stays there if nothing is
    better on the held-out labels. So on these, up to rounding, it is never worse than that, nor
    than the output's ``log_probs``. Temperatures lie between 1/100 and 100: often the best fit
    flattens the branches and sharpens their fusion, and flatter branches would be lost in rounding.
    It can change the predicted class.

    Args:
        correction_weight: that of the :class:`ReliabilityBalancer`, >= 0; 0 uses the primary branch
            alone. ``fit`` refuses outputs that were fused with another weight.

    Shape:
        - output: a :class:`BalancerOutput` of B samples, before
          :func:`core.with_class_prior`, after which ``log_probs`` are no longer the fusion
          of the branches; returns (B, C) log-probabilities.

    State:
        ``temperatures`` (4,), a buffer: of the primary, anchor and attentive branch and of the
        fusion; 1 until fitted, and for a branch that is switched off. The same on all ranks that
        fit the same data.

    Raises:
        TypeError: on a wrong dtype, or if `output` is no :class:`BalancerOutput`.
        ValueError: on wrong shapes or values, if a branch has probabilities instead of logits, or
            if the branches' fusion is not the output's ``log_probs``.

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

    SETTINGS: ClassVar = {"correction_weight": float}
    FITTED = ("temperatures",)

    temperatures: Tensor

    def __init__(self, *, correction_weight: float = 1.0) -> None:
        super().__init__()
        checks.non_negative("correction_weight", correction_weight)
        self.correction_weight = correction_weight
        self.register_buffer("temperatures", torch.ones(4))

    def forward(self, output: BalancerOutput) -> Tensor:
        """Return the calibrated log-probabilities of the corrected distribution."""
        check_output("output", output)
        return self._fuse(output, self.temperatures)

    @torch.no_grad()
    def fit(
        self, output: BalancerOutput, labels: Tensor, *, class_prior: Tensor | None = None
    ) -> Self:
        """Fit the temperatures.

        Args:
            output: outputs of the balancer on held-out data, in eval mode.
            labels: their class indices, or class probabilities.
            class_prior: frequency or count of each class in the held-out data, > 0, if `output` is
                for evenly frequent classes. None: no importance weights.

        Shape:
            - output: of N samples; labels: (N,) int64 or (N, C) floating; class_prior: (C,).

        Raises:
            TypeError: on a wrong dtype, or if `output` is no :class:`BalancerOutput`.
            ValueError: on wrong shapes or values, if a branch has probabilities instead of logits,
                or if the branches' fusion is not the output's ``log_probs``.

        Warns:
            UserWarning: if all samples are of one class.
        """
        check_output("output", output)
        branches = {name: getattr(output, name) for name in BRANCHES}
        scores = {
            name: held_out(branch, labels, name, class_prior=class_prior)
            for name, branch in branches.items()
            if branch is not None
        }
        targets = scores["logits"][1]
        warn_of_one_class(targets)
        wide = output._replace(**{name: branch for name, (branch, _) in scores.items()})
        fused = self._fuse(wide, targets.new_ones(4))
        check_fusion(fused, output.log_probs, self.correction_weight)

        def loss(temperatures: Tensor) -> Tensor:
            return F.cross_entropy(self._fuse(wide, temperatures), targets)

        start = targets.new_zeros(4)
        single = common_temperature(fused, targets, self.temperatures.dtype).log() / LARGEST
        start[3] = LARGEST * single.clamp(-0.999, 0.999).atanh()
        weight = prior_weight(fused, targets)
        found = settle(loss, _temperatures, start, weight, self.temperatures.dtype)
        self.temperatures.copy_(found)
        return self

    def _fuse(self, output: BalancerOutput, temperatures: Tensor) -> Tensor:
        """Fuse the scaled branches that are on (Eq. 18, 19), and scale the result."""
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


def check_fusion(fused: Tensor, log_probs: Tensor, correction_weight: float) -> None:
    """Require that branches fused with this weight give ``log_probs``, up to rounding."""
    if log_probs.shape != fused.shape:
        raise ValueError(
            "`output` must have `log_probs` of the shape of its branches, "
            f"{tuple(fused.shape)}; got {tuple(log_probs.shape)}"
        )
    difference = float((fused.exp() - log_probs.to(fused).exp()).abs().amax(-1).mean())
    # An output stored in half precision rounds branches and fusion separately.
    if not difference <= max(1e-4, 2 * torch.finfo(log_probs.dtype).eps):
        raise ValueError(
            "`output` must have `log_probs` that its branches give with "
            f"correction_weight={correction_weight}; got probabilities {difference:.2g} "
            "apart on average: use the balancer's own `correction_weight` and its eval mode, "
            "and calibrate before `with_class_prior`"
        )


def _temperatures(free: Tensor) -> Tensor:
    """Map free values to temperatures: their exponential, saturating for large values."""
    return (LARGEST * (free / LARGEST).tanh()).exp()
