"""Predictions of labels that the model was not trained on."""

import torch
from torch import Tensor, nn

from reliability_balance.labels.rows import Parts, with_rows


class OutOfSample(nn.Module):
    """The predicted class of samples, and its probability, before their labels were trained on.

    Agreement of these predictions with the labels cannot come from memorization.

    Args:
        num_samples: N.

    State:
        ``classes`` (N,) int32, -1 for a sample without such a prediction; ``confidence`` (N,).
    """

    classes: Tensor
    confidence: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.register_buffer("classes", torch.full((num_samples,), -1, dtype=torch.int32))
        self.register_buffer("confidence", torch.zeros(num_samples))

    def record(self, index: Tensor, probs: Tensor, which: Tensor) -> None:
        """Keep the predictions (B, C) of those samples for which the mask (B, 1) is true."""
        self.store(index, self.compress(index, probs, which))

    def compress(self, index: Tensor, probs: Tensor, which: Tensor) -> Parts:
        """Return what :meth:`record` stores of these samples."""
        confidence, classes = probs.max(-1)
        which = which.squeeze(-1)
        classes = classes.int().where(which, self.classes[index])
        kept = self.confidence[index]
        return classes, confidence.to(kept.dtype).clamp(0.0, 1.0).where(which, kept)

    def store(self, index: Tensor, parts: Parts) -> None:
        """Store what :meth:`compress` returned."""
        self.classes[index], self.confidence[index] = parts

    def add_samples(self, count: int) -> None:
        """Append samples without such a prediction."""
        self.classes = with_rows(self.classes, count, -1)
        self.confidence = with_rows(self.confidence, count)


def fill_in_old(state: dict[str, Tensor], prefix: str, num_samples: int) -> None:
    """Add what states of targets from before checkpoint format 5 lack: no such predictions."""
    prefix = f"{prefix}out_of_sample."
    if not any(name.startswith(prefix) for name in state):
        state.update(OutOfSample(num_samples).state_dict(prefix=prefix))
