"""Every public module, small, with inputs: what the shared contract runs over."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reliability_balance import (
    AnchorLoss,
    CenterLoss,
    ReliabilityBalancer,
    ReliabilityLoss,
    wrap,
)
from reliability_balance.calibration import (
    Abstention,
    BranchTemperatures,
    ClassPredictionSets,
    Familiarity,
    GroupPredictionSets,
    PredictionSets,
    SelectionScore,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
)
from reliability_balance.core import AttentiveCorrection, MLPHead

LABELS = torch.tensor([0, 1, 2, 1])


class BalancerAndLoss(nn.Module):
    """A training step as one module: the loss of a balanced embedding."""

    def __init__(self, class_prior: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.balancer = ReliabilityBalancer(8, 3, num_anchors=2, head_dim=4, **options)
        self.criterion = ReliabilityLoss(recipe=self.balancer.recipe)
        self.class_prior = class_prior

    def forward(self, embedding: Tensor) -> Tensor:
        labels, output = LABELS.to(embedding.device), self.balancer(embedding)
        return self.criterion(output, labels, class_prior=self.class_prior).total


class CalibratedBalancer(nn.Module):
    """A balancer and the temperatures of its branches, as one module."""

    def __init__(self) -> None:
        super().__init__()
        self.balancer = ReliabilityBalancer(8, 3, num_anchors=2, attention="single", head_dim=4)
        self.calibration = BranchTemperatures()
        self.calibration.temperatures.copy_(torch.tensor([0.5, 2.0, 1.5, 0.8]))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.calibration(self.balancer(embedding))


class FamiliarBalancer(nn.Module):
    """A balancer and how familiar it finds its inputs, as one module."""

    def __init__(self) -> None:
        super().__init__()
        self.balancer = ReliabilityBalancer(8, 3, num_anchors=2).eval()
        self.familiarity = Familiarity(8, num_references=20)
        generator = torch.Generator().manual_seed(1)
        self.familiarity.fit(self.balancer(torch.randn(60, 8, generator=generator)))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.familiarity(self.balancer(embedding))


class SelectiveBalancer(nn.Module):
    """A balancer and the score that its predictions are selected by, as one module."""

    def __init__(self) -> None:
        super().__init__()
        self.balancer = ReliabilityBalancer(8, 3, num_anchors=2).eval()
        self.selection = SelectionScore(8, 3, num_references=30)
        generator = torch.Generator().manual_seed(1)
        output = self.balancer(torch.randn(60, 8, generator=generator))
        self.selection.fit(output, output.corrected)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.selection(self.balancer(embedding))


@dataclass(frozen=True)
class Case:
    """How to make a module and its inputs; `exports` where it is for inference too."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    exports: bool = False


def balancer(**options: Any) -> Callable[[], nn.Module]:
    return lambda: ReliabilityBalancer(8, 3, **{"num_anchors": 2, "head_dim": 4, **options})


def embedding() -> tuple[Tensor, ...]:
    return (torch.randn(4, 8),)


def tokens() -> tuple[Tensor, ...]:
    return (torch.randn(4, 5, 8),)


def classifier(**options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        return wrap(layers, num_anchors=2, **options)

    return make


def log_probs() -> tuple[Tensor, ...]:
    return (torch.randn(4, 3).log_softmax(-1),)


def fitted(module: nn.Module) -> Callable[[], nn.Module]:
    """A module fitted on held-out data."""
    held_out = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    if isinstance(module, Abstention):
        surest, predicted = held_out.max(-1)
        module.fit(surest.exp(), predicted == torch.arange(60) % 2)
    elif isinstance(module, GroupPredictionSets):
        module.fit(held_out, torch.arange(60) % 3, torch.arange(60) % 2)
    else:
        module.fit(held_out, torch.arange(60) % 3)
    return lambda: copy.deepcopy(module)


CASES = {
    "robust": Case(balancer(), embedding, exports=True),
    "paper": Case(balancer(recipe="paper"), embedding, exports=True),
    "tokens": Case(balancer(attention="tokens", head="mlp"), tokens, exports=True),
    "no anchors": Case(balancer(num_anchors=0, attention="single"), embedding, exports=True),
    "twenty anchors": Case(balancer(num_anchors=20), embedding),
    "attention of vectors": Case(balancer(attention="single"), embedding, exports=True),
    "plain head": Case(balancer(num_anchors=0, head="mlp"), embedding, exports=True),
    "given logits": Case(
        balancer(head=None), lambda: (torch.randn(4, 8), torch.randn(4, 3)), exports=True
    ),
    "attention": Case(lambda: AttentiveCorrection(8, 3, head_dim=4), embedding, exports=True),
    "head": Case(lambda: MLPHead(8, 3), embedding, exports=True),
    "temperature": Case(fitted(TemperatureScaling()), log_probs, exports=True),
    "vector scaling": Case(fitted(VectorScaling(3)), log_probs, exports=True),
    "top-label scaling": Case(fitted(TopLabelScaling()), log_probs, exports=True),
    "branch temperatures": Case(CalibratedBalancer, embedding, exports=True),
    "familiarity": Case(FamiliarBalancer, embedding, exports=True),
    "selection score": Case(SelectiveBalancer, embedding, exports=True),
    "prediction sets": Case(fitted(PredictionSets(0.8)), log_probs, exports=True),
    "class prediction sets": Case(fitted(ClassPredictionSets(3, 0.8)), log_probs, exports=True),
    "group prediction sets": Case(
        fitted(GroupPredictionSets(2, 0.8)),
        lambda: (*log_probs(), torch.tensor([0, 1, 1, 0])),
        exports=True,
    ),
    "abstention": Case(fitted(Abstention(0.6, delta=0.3)), lambda: (torch.rand(4),), exports=True),
    "anchor loss": Case(AnchorLoss, lambda: (torch.randn(3, 2, 8),)),
    "center loss": Case(CenterLoss, lambda: (torch.randn(4, 8), torch.randn(3, 2, 8), LABELS)),
    "robust loss": Case(BalancerAndLoss, embedding),
    "class prior loss": Case(
        lambda: BalancerAndLoss(class_prior=torch.tensor([90, 9, 1])), embedding
    ),
    "loss of tokens": Case(lambda: BalancerAndLoss(attention="tokens"), tokens),
    "paper loss": Case(lambda: BalancerAndLoss(recipe="paper"), embedding),
    "wrapped": Case(classifier(), lambda: (torch.randn(4, 6),), exports=True),
    "wrapped, head kept": Case(
        classifier(keep_head=True), lambda: (torch.randn(4, 6),), exports=True
    ),
}


def tensors(output: Any) -> list[Tensor]:
    """All tensors of a tensor, or of an output whose absent branches are None."""
    entries = [output] if isinstance(output, Tensor) else list(output)
    return [entry for entry in entries if entry is not None]


def floating(output: Any) -> list[Tensor]:
    return [tensor for tensor in tensors(output) if tensor.is_floating_point()]
