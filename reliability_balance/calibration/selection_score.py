"""A score for selective prediction: confidence, and what training samples nearby say."""

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance import functional as RF
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.settings import Configured

NEIGHBOURS = 25


class SelectionScore(Configured):
    r"""Score how likely predictions are right, better than their confidence alone does.

    .. math:: s(x) = \tfrac{1}{2} \Big( p_{\hat y}(x) +
        \tfrac{1}{25} \sum_{r \in N_{25}(x)} q_{r, \hat y} \Big), \quad
        \hat y = \arg\max_c p_c(x)

    where p is the corrected distribution, N_25 holds the reference samples whose embeddings have
    the smallest angle to that of x, and q_r are the beliefs about reference r: what the model
    predicted for it in training. Confidences of single samples are noisy; the beliefs of a
    neighbourhood are averages over samples and epochs.

    Use it in place of ``output.confidence``, for :class:`calibration.Abstention` and
    :func:`calibration.selective_risk`. It ranks predictions and is not calibrated.

    Args:
        embedding_dim: D, the width of the embedding.
        num_classes: C.
        num_references: M reference samples to keep, at least 25. Time and memory grow with M: with
            D = 512 and C = 10, a score takes 0.1 % of a ResNet-18's forward pass for 1,000, and
            0.2 % for 2,500, in 2 and 5 MB. In our measurements 2,500 lowered AURC by up to 0.07
            points more than 1,000 did (``benchmarks/results/selection.md``).
        validate_args: whether to check that embeddings are finite and that the module is fitted,
            which waits for the device.

    Shape:
        - output: a :class:`BalancerOutput` of B samples, with or without anchors and tokens;
          returns (B,) floating in [0, 1], float32 or wider.

    State:
        ``references`` (M, D), of unit length; ``beliefs`` (M, C). Both are buffers, and 0 until
        fitted.

    Raises:
        RuntimeError: if it is not fitted.
        TypeError: if `output` is no :class:`BalancerOutput`.
        ValueError: on wrong sizes or values, another embedding width or number of classes, or
            non-finite embeddings.

    Differs from paper: not in it.

    Reference: neighbours as in Papernot and McDaniel, Deep k-Nearest Neighbors, 2018,
        https://arxiv.org/abs/1803.04765, with beliefs for labels. The combination is ours.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer = ReliabilityBalancer(16, num_classes=3).eval()
        >>> output = balancer(torch.rand(500, 16))
        >>> score = SelectionScore(16, num_classes=3, num_references=100)
        >>> score.fit(output, output.corrected)(output).shape
        torch.Size([500])
    """

    SETTINGS: ClassVar = {"embedding_dim": int, "num_classes": int, "num_references": int}

    references: Tensor
    beliefs: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        num_references: int = 1000,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        checks.at_least("embedding_dim", embedding_dim, 1)
        checks.at_least("num_classes", num_classes, 2)
        checks.at_least("num_references", num_references, NEIGHBOURS)
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.num_references = num_references
        self.validate_args = validate_args
        self.register_buffer("references", torch.zeros(num_references, embedding_dim))
        self.register_buffer("beliefs", torch.zeros(num_references, num_classes))

    def forward(self, output: BalancerOutput) -> Tensor:
        """Return the scores, higher where the prediction is more likely right."""
        self._check(output)
        is_checked = self.validate_args and checks.can_read_values()
        if is_checked and not bool(self.beliefs[0].any()):
            raise RuntimeError("`fit` must be called before the score is used")
        log_prob, predicted = output.log_probs.max(-1)
        points, beliefs = self._points(output), numerics.widen(self.beliefs)
        references = numerics.widen(self.references, points)
        with numerics.without_autocast(points):
            nearness = numerics.widen(points, references) @ references.T
        nearest = nearness.topk(NEIGHBOURS, dim=-1).indices
        around = beliefs[nearest, predicted.unsqueeze(-1)].mean(-1)
        return (log_prob.exp() + around.to(log_prob.dtype)) / 2

    @torch.no_grad()
    def fit(self, output: BalancerOutput, beliefs: Tensor) -> Self:
        """Store references, spread evenly over the order of the samples.

        Args:
            output: of training samples, in eval mode.
            beliefs: class probabilities of the same samples, such as
                ``criterion.targets.beliefs(torch.arange(N))``.

        Shape:
            - output: of N >= M samples; beliefs: (N, C) floating.

        Raises:
            TypeError: if `output` is no :class:`BalancerOutput`, or `beliefs` is not floating.
            ValueError: on too few samples, on wrong shapes or values, or non-finite embeddings.
        """
        self._check(output)
        count = len(output.embedding)
        if count < self.num_references:
            raise ValueError(
                f"`output` must hold at least {self.num_references} samples, num_references; got "
                f"{count}"
            )
        checks.floating("beliefs", beliefs)
        if beliefs.shape != (count, self.num_classes):
            raise ValueError(
                f"`beliefs` must have shape (N, C) = ({count}, {self.num_classes}); got "
                f"{tuple(beliefs.shape)}"
            )
        checks.probability_values("`beliefs`", beliefs)
        chosen = torch.arange(self.num_references, device=output.embedding.device)
        chosen = chosen * count // self.num_references
        self.references.copy_(self._points(output)[chosen])
        self.beliefs.copy_(beliefs[chosen.to(beliefs.device)])
        return self

    def _points(self, output: BalancerOutput) -> Tensor:
        return RF.unit_length(numerics.widen(output.embedding))

    def _check(self, output: BalancerOutput) -> None:
        check_output("output", output)
        checks.width("output.embedding", output.embedding, self.embedding_dim)
        checks.width("output.log_probs", output.log_probs, self.num_classes)
        if self.validate_args:
            checks.finite("output.embedding", output.embedding)
