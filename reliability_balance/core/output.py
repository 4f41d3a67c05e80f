"""The output of the balancer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reliability_balance import functional as RF
from reliability_balance import numerics


class BalancerOutput(NamedTuple):
    """Outputs of the balancer for one batch; a branch that is switched off is None.

    The fields are log-probabilities, exact where a probability underflows. Probabilities and
    confidences are properties, computed on access. All but `logits` and `embedding` are float32 or
    wider.

    Shape:
        - log_probs: (B, C), log of the corrected distribution (Eq. 19)
        - logits: (B, C), primary branch before its softmax (Eq. 9), unchanged
        - anchor_log_probs, attentive_log_probs, correction_log_probs: (B, C), log of Eq. 14, 17, 18
        - embedding: (B, D), averaged over tokens
        - distances: (B, C, K), to every anchor (Eq. 12)
        - anchors: (C, K, D), as used in Eq. 12: of unit length with the cosine metric
        - tokens: (B, T, D), input of the attention if the embedding has tokens; token_mask: (B, T)
        - corrected, primary, anchor, attentive, correction: (B, C) probabilities
        - confidence and the four ``*_confidence``: (B,) in [0, 1] (Eq. 10)
        - changed: (B,) bool, whether the corrected class differs from the primary one

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> output = ReliabilityBalancer(16, num_classes=3)(torch.randn(4, 16))
        >>> output.corrected.shape, output.confidence.shape, output.attentive
        (torch.Size([4, 3]), torch.Size([4]), None)
    """

    log_probs: Tensor
    logits: Tensor
    embedding: Tensor
    anchor_log_probs: Tensor | None = None
    attentive_log_probs: Tensor | None = None
    correction_log_probs: Tensor | None = None
    distances: Tensor | None = None
    anchors: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None

    @property
    def corrected(self) -> Tensor:
        """Corrected distribution (Eq. 19)."""
        return self.log_probs.exp().contiguous()

    @property
    def primary(self) -> Tensor:
        """Primary distribution (Eq. 9)."""
        return self.primary_log_probs.exp()

    @property
    def primary_log_probs(self) -> Tensor:
        """Logarithm of the primary distribution."""
        return numerics.widen(self.logits).log_softmax(-1)

    @property
    def anchor(self) -> Tensor | None:
        """Distribution of the anchor branch (Eq. 14)."""
        return _exp(self.anchor_log_probs)

    @property
    def attentive(self) -> Tensor | None:
        """Distribution of the attention branch (Eq. 17)."""
        return _exp(self.attentive_log_probs)

    @property
    def correction(self) -> Tensor | None:
        """Fused distribution of anchors and attention (Eq. 18)."""
        return _exp(self.correction_log_probs)

    @property
    def confidence(self) -> Tensor:
        """Confidence of the corrected distribution (Eq. 10)."""
        return RF.confidence(self.corrected)

    @property
    def primary_confidence(self) -> Tensor:
        """Confidence of the primary distribution (Eq. 10)."""
        return RF.confidence(self.primary)

    @property
    def anchor_confidence(self) -> Tensor | None:
        """Confidence of the anchor branch (Eq. 10)."""
        return _confidence(self.anchor)

    @property
    def attentive_confidence(self) -> Tensor | None:
        """Confidence of the attention branch (Eq. 10)."""
        return _confidence(self.attentive)

    @property
    def correction_confidence(self) -> Tensor | None:
        """Confidence of the fused correction (Eq. 10)."""
        return _confidence(self.correction)

    @property
    def changed(self) -> Tensor:
        """Whether the corrected class differs from the primary one."""
        return self.log_probs.argmax(-1) != self.logits.argmax(-1)


def _exp(log_probs: Tensor | None) -> Tensor | None:
    """Return probabilities in row-major order, as files and other libraries expect."""
    return None if log_probs is None else log_probs.exp().contiguous()


def _confidence(probs: Tensor | None) -> Tensor | None:
    return None if probs is None else RF.confidence(probs)


def check_output(name: str, output: object) -> None:
    """Require a BalancerOutput."""
    if not isinstance(output, BalancerOutput):
        raise TypeError(
            f"`{name}` must be a BalancerOutput, as returned by a wrapped model or a balancer; got "
            f"{type(output).__name__}"
        )


def on_cpu(output: BalancerOutput) -> BalancerOutput:
    """Copy an output to the CPU, without its tokens, to store it for a whole data set.

    Args:
        output: on any device.
    """
    kept = output._replace(tokens=None, token_mask=None)
    moved: dict[str, Any] = {
        name: None if each is None else each.cpu() for name, each in kept._asdict().items()
    }
    return BalancerOutput(**moved)


def join_outputs(outputs: Sequence[BalancerOutput]) -> BalancerOutput:
    """Concatenate the outputs of several batches.

    Tokens are dropped, because their number may differ between batches.

    Args:
        outputs: at least one; all of the same model, unchanged in between.

    Shape:
        - outputs: of B1, B2, … samples; returns that of B1 + B2 + … samples.

    Raises:
        ValueError: if `outputs` is empty.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer = ReliabilityBalancer(16, num_classes=3).eval()
        >>> join_outputs([balancer(torch.randn(2, 16)), balancer(torch.randn(3, 16))]).logits.shape
        torch.Size([5, 3])
    """
    if not outputs:
        raise ValueError("`outputs` must hold at least 1 output; got 0")

    def join(name: str) -> Any:
        values = [getattr(output, name) for output in outputs]
        if name in ("tokens", "token_mask"):
            return None
        # The anchors belong to the model, not to the samples.
        return values[0] if values[0] is None or name == "anchors" else torch.cat(values)

    return BalancerOutput(**{name: join(name) for name in BalancerOutput._fields})
