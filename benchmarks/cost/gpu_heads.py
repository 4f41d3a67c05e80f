"""Heads as modules that can be compiled: a linear one, and the robust recipe."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cost.heads import Size
from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance.core import get_recipe, log_frequencies
from reliability_balance.labels import RefurbishedTargets, mix


class PlainHead(nn.Module):
    """A linear head and cross-entropy."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.linear = nn.Linear(size.dim, size.classes)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.linear(embedding), labels)


class RobustHead(nn.Module):
    """The robust recipe: balancer, targets, class frequencies, mixing and losses.

    Assembled here, since `RobustLoss` counts its samples, which a CUDA graph cannot do.
    """

    prior: Tensor
    index: Tensor

    def __init__(self, size: Size, validate_args: bool = False) -> None:
        super().__init__()
        self.balancer = ReliabilityBalancer(
            size.dim,
            size.classes,
            num_anchors=size.anchors,
            validate_args=validate_args,
        )
        self.targets = RefurbishedTargets(10_000, size.classes, validate_args=validate_args)
        self.criterion = ReliabilityLoss(validate_args=validate_args)
        concentration = get_recipe("robust").mixing
        assert concentration is not None  # for the type checker: the robust recipe mixes
        self.concentration = concentration
        self.register_buffer("prior", torch.full((size.classes,), 1.0 / size.classes))
        self.register_buffer("index", torch.arange(size.batch))

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        output = self.balancer(embedding)
        beliefs = (output.log_probs + log_frequencies(self.prior)).softmax(-1)
        soft = self.targets(self.index, labels, beliefs)
        mixed = mix(self.balancer, output, soft, concentration=self.concentration)
        loss: Tensor = self.criterion(*mixed, class_prior=self.prior).total
        return loss
