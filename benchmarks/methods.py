"""All compared methods behind one interface: a module with a training loss and predictions.

All have the same encoder and learning rate, and otherwise their authors' settings. None was tuned
on the seeds of the tables; for ours see docs/research_log.md.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from losses_of_others import focal, generalised_cross_entropy, symmetric_cross_entropy
from methods_of_others import (
    Centers,
    Classifier,
    EarlyLearning,
    ErasingConsistency,
    Proxies,
    RelativeUncertainty,
    SelfCure,
    log_prior_of,
    logit_adjusted,
    smoothed,
)
from noisy_data import Task
from shared_encoder import EMBEDDING_DIM, make_encoder
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from reliability_balance import BalancerOutput, ReliabilityBalancer, ReliabilityLoss, RobustLoss
from reliability_balance.core import BalancerOptions, Recipe
from reliability_balance.labels import RefurbishedTargets


class Method(Protocol):
    """Interface of a method, which is also a torch module."""

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor: ...
    def log_probs(self, inputs: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self) -> Any: ...
    def eval(self) -> Any: ...


class Balanced(nn.Module):
    """Our balancer alone, with the labels as given."""

    def __init__(self, task: Task, **options: Unpack[BalancerOptions]) -> None:
        super().__init__()
        self.encoder = make_encoder(task.inputs.shape[1])
        self.balancer = ReliabilityBalancer(EMBEDDING_DIM, task.num_classes, **options)
        self.criterion = ReliabilityLoss(recipe=self.balancer.recipe)

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        loss: Tensor = self.criterion(self.predict(inputs), labels).total
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.predict(inputs).log_probs

    def predict(self, inputs: Tensor) -> BalancerOutput:
        output: BalancerOutput = self.balancer(self.encoder(inputs))
        return output


class Robust(Balanced):
    """Our complete recipe: a balancer trained with RobustLoss."""

    def __init__(
        self, task: Task, settings: Recipe | None = None, **options: Unpack[BalancerOptions]
    ) -> None:
        super().__init__(task, **options)
        self.labels = task.labels
        self.settings = settings

    def begin(self, epochs: int) -> None:
        """Create the criterion for this many epochs."""
        self.robust = RobustLoss(self.balancer, self.labels, epochs=epochs, recipe=self.settings)

    @property
    def targets(self) -> RefurbishedTargets:
        """The criterion's refurbished targets."""
        return self.robust.targets

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        loss: Tensor = self.robust(self.predict(inputs), labels, index)
        return loss


METHODS: dict[str, Callable[[Task], Method]] = {
    "cross-entropy": lambda task: Classifier(task, F.cross_entropy),
    "label smoothing": lambda task: Classifier(task, smoothed),
    "logit adjustment": logit_adjusted,
    "focal": lambda task: Classifier(task, focal),
    "GCE": lambda task: Classifier(task, generalised_cross_entropy),
    "symmetric CE": lambda task: Classifier(task, symmetric_cross_entropy),
    "ELR": EarlyLearning,
    "SCN": SelfCure,
    "RUL": RelativeUncertainty,
    "EAC": ErasingConsistency,
    "EAC, logit-adjusted": lambda task: ErasingConsistency(task, log_prior=log_prior_of(task)),
    "center loss": Centers,
    "SoftTriple": lambda task: Proxies(task, "SoftTripleLoss"),
    "ProxyAnchor": lambda task: Proxies(task, "ProxyAnchorLoss"),
    "cross-entropy, linear head": lambda task: Classifier(task, F.cross_entropy, head=nn.Linear),
    "GCE, linear head": lambda task: Classifier(task, generalised_cross_entropy, head=nn.Linear),
    "ELR, linear head": lambda task: EarlyLearning(task, head=nn.Linear),
    "logit adjustment, linear head": lambda task: logit_adjusted(task, nn.Linear),
    "ours, paper": lambda task: Balanced(task, recipe="paper"),
    "ours, robust": Robust,
}
