"""What the balancer says of a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class BalancerOutput(NamedTuple):
    """All that the balancer knows of a batch; a branch that is switched off is None.

    Probabilities and confidences are float32 or wider.

    Shape:
        - corrected, primary, anchor, attentive, correction: (B, C) probabilities (Eq. 19, 9, 14,
          17, 18)
        - log_probs, anchor_log_probs, attentive_log_probs: (B, C), log of corrected and of the two
          branches, exact where the probability underflows
        - logits: (B, C), the primary branch before its softmax, untouched
        - confidence and the four ``*_confidence``: (B,) in [0, 1] (Eq. 10)
        - changed: (B,) bool, the corrected class is not the primary one
        - embedding: (B, D), tokens averaged
        - distances: (B, C, K), to every anchor (Eq. 12)
        - anchors: (C, K, D), as they enter Eq. 12, on the unit sphere for the cosine metric
    """

    corrected: Tensor
    log_probs: Tensor
    primary: Tensor
    logits: Tensor
    confidence: Tensor
    primary_confidence: Tensor
    changed: Tensor
    embedding: Tensor
    anchor: Tensor | None = None
    anchor_log_probs: Tensor | None = None
    anchor_confidence: Tensor | None = None
    attentive: Tensor | None = None
    attentive_log_probs: Tensor | None = None
    attentive_confidence: Tensor | None = None
    correction: Tensor | None = None
    correction_confidence: Tensor | None = None
    distances: Tensor | None = None
    anchors: Tensor | None = None


def on_cpu(output: BalancerOutput) -> BalancerOutput:
    """Bring an output to the CPU, so that the device need not hold those of a whole data set.

    Args:
        output: on any device.
    """
    moved: dict[str, Any] = {
        name: None if each is None else each.cpu() for name, each in output._asdict().items()
    }
    return BalancerOutput(**moved)


def join_outputs(outputs: Sequence[BalancerOutput]) -> BalancerOutput:
    """Join the outputs of several batches of one model, in their order.

    Args:
        outputs: at least one; all from a model that was not changed in between.

    Shape:
        - outputs: of B1, B2, … samples; returns that of B1 + B2 + … samples.

    Raises:
        ValueError: if there is none.

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
        # The anchors belong to the model, not to the samples.
        return values[0] if values[0] is None or name == "anchors" else torch.cat(values)

    return BalancerOutput(**{name: join(name) for name in BalancerOutput._fields})
