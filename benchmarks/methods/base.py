"""What all methods share: a network on a task, the labels, a budget, and how they are asked."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data.task import Task

MakeHead = Callable[[int, int], nn.Module]
LogitLoss = Callable[[Tensor, Tensor], Tensor]


class Method(nn.Module):
    """A head on the task's network, a loss of a batch, and predictions.

    Args:
        task: what it is trained on.
        budget: forward passes per sample. A method with two passes per sample and epoch, with or
            without gradient, trains for half as many epochs.
        head: builds the last layer from the width of its input and the number of classes.

    Attributes:
        passes: forward passes per sample and epoch.
        network: the layers with the head as the last one; ours may wrap them.
        for_even_classes: whether predictions are for evenly frequent classes.
        shares: all labels as probabilities (N, C).
    """

    network: Any
    shares: Tensor
    passes = 1
    for_even_classes = False

    def __init__(self, task: Task, budget: int, *, head: MakeHead = nn.Linear) -> None:
        super().__init__()
        self.seen = task.network
        self.network = nn.Sequential(*self.seen.layers(), head(self.seen.width, task.num_classes))
        self.epochs = max(1, budget // self.passes)
        labels = task.labels
        soft = labels if labels.is_floating_point() else F.one_hot(labels, task.num_classes).float()
        self.register_buffer("shares", soft)

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Return the loss of the samples `index` (B,) with these inputs and labels."""
        raise NotImplementedError

    def log_probs(self, inputs: Tensor) -> Tensor:
        """Return log-probabilities (B, C) for the plain view."""
        log_probs: Tensor = self.network(self.seen.plain(inputs)).log_softmax(-1)
        return log_probs

    def trust(self) -> Tensor | None:
        """Return the trust in each label (N,), NaN if not trained on; None: no such score."""
        return None

    def logits(self, inputs: Tensor, views: int = 1) -> list[Tensor]:
        """Return the logits of this many random views."""
        return [self.network(view) for view in self.seen.views(inputs, views)]

    def embedding(self, inputs: Tensor) -> Tensor:
        """Return the embedding (B, width) of a random view."""
        embedding: Tensor = self.network[:-1](self.seen.views(inputs, 1)[0])
        return embedding

    @property
    def head(self) -> Any:
        """The last layer."""
        return self.network[-1]


class Plain(Method):
    """A loss on logits and labels."""

    def __init__(
        self, task: Task, budget: int, loss: LogitLoss = F.cross_entropy, **options: MakeHead
    ) -> None:
        super().__init__(task, budget, **options)
        self.logit_loss = loss

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return self.logit_loss(self.logits(inputs)[0], labels)


def log_prior_of(task: Task) -> Tensor:
    """Return the log-frequencies of the classes (C,), each counted once more."""
    counts = task.labels.bincount(minlength=task.num_classes) + 1
    return (counts / counts.sum()).log()


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Call a function on batches of a thousand inputs, and concatenate the results."""
    return torch.cat([function(part) for part in inputs.split(1000)])


def predict(method: Method, inputs: Tensor) -> Tensor:
    """Return log-probabilities in eval mode."""
    method.eval()
    return in_parts(method.log_probs, inputs)
