"""All methods that are compared, in one shape: a module with a training loss and predictions.

Each has the same encoder, and its authors' settings, but for learning rates, which all share. Most
have the paper's MLP head, which does better than a linear one where they learn wrong labels by
heart; some have both. None was tuned on the seeds of the tables, but for ours as far as README.md
tells.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from losses_of_others import (
    center_distance,
    early_learning_term,
    focal,
    generalised_cross_entropy,
    mix_by_uncertainty,
    rank_regularisation,
    symmetric_cross_entropy,
)
from noisy_data import Task
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from reliability_balance import BalancerOutput, ReliabilityBalancer, ReliabilityLoss
from reliability_balance.balancer import BalancerOptions
from reliability_balance.heads import MLPHead
from reliability_balance.mixing import mix
from reliability_balance.targets import RefurbishedTargets

EMBEDDING_DIM = 128


class Method(Protocol):
    """What a run needs of a method; each is a torch module, too."""

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor: ...
    def log_probs(self, inputs: Tensor) -> Tensor: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self) -> Any: ...
    def eval(self) -> Any: ...


def make_encoder(width: int) -> nn.Sequential:
    """The encoder that all methods share."""
    return nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, EMBEDDING_DIM), nn.ReLU())


class Classifier(nn.Module):
    """Encoder, the paper's MLP head or another, and a loss on logits; most others."""

    def __init__(
        self,
        task: Task,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        head: Callable[[int, int], nn.Module] = MLPHead,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(task.inputs.shape[1])
        self.head = head(EMBEDDING_DIM, task.num_classes)
        self.logit_loss = loss

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return self.logit_loss(self.logits(inputs), labels)

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.logits(inputs).log_softmax(-1)

    def logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(inputs))
        return logits


class EarlyLearning(nn.Module):
    """ELR: cross-entropy, and a pull towards the running average of each sample's predictions."""

    average: Tensor

    def __init__(
        self,
        task: Task,
        *,
        weight: float = 3.0,
        momentum: float = 0.7,
        head: Callable[[int, int], nn.Module] = MLPHead,
    ) -> None:
        super().__init__()
        self.classifier = Classifier(task, F.cross_entropy, head=head)
        self.weight, self.momentum = weight, momentum
        self.register_buffer("average", torch.zeros_like(task.truth))

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        logits = self.classifier.logits(inputs)
        probs = logits.detach().softmax(-1)
        self.average[index] = self.momentum * self.average[index] + (1 - self.momentum) * probs
        pull = early_learning_term(logits, self.average[index])
        return F.cross_entropy(logits, labels) + self.weight * pull

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.classifier.log_probs(inputs)


class SelfCure(nn.Module):
    """SCN: each sample's importance, ranked; from epoch 10 a doubtful label gives way."""

    labels: Tensor

    def __init__(self, task: Task, *, relabel_from: int = 10, relabel_margin: float = 0.2) -> None:
        super().__init__()
        self.classifier = Classifier(task, F.cross_entropy)
        self.importance = nn.Linear(EMBEDDING_DIM, 1)
        self.relabel_from, self.relabel_margin = relabel_from, relabel_margin
        self.register_buffer("labels", task.labels.clone())

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        embedding = self.classifier.encoder(inputs)
        weights = self.importance(embedding).sigmoid()
        logits = self.classifier.head(embedding)
        labels = self.labels[index]
        if epoch >= self.relabel_from:
            low = weights.squeeze(1).argsort(descending=True)[round(0.7 * len(labels)) :]
            probs = (weights * logits).detach()[low].softmax(-1)
            surest, other = probs.max(-1)
            doubted = surest - probs.gather(1, labels[low].unsqueeze(1)).squeeze(1)
            moved = low[doubted > self.relabel_margin]
            self.labels[index[moved]] = other[doubted > self.relabel_margin]
        loss = F.cross_entropy(weights * logits, labels)
        return loss + rank_regularisation(weights.squeeze(1))

    def log_probs(self, inputs: Tensor) -> Tensor:
        embedding = self.classifier.encoder(inputs)
        weights = self.importance(embedding).sigmoid()
        log_probs: Tensor = (weights * self.classifier.head(embedding)).log_softmax(-1)
        return log_probs


class RelativeUncertainty(nn.Module):
    """RUL: pairs fused by their learned uncertainty must show both labels."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.classifier = Classifier(task, F.cross_entropy)
        self.log_scale = nn.Linear(EMBEDDING_DIM, 1)

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        embedding = self.classifier.encoder(inputs)
        partner = torch.randperm(len(labels))
        fused = mix_by_uncertainty(embedding, self.log_scale(embedding), partner)
        logits = self.classifier.head(fused)
        return F.cross_entropy(logits, labels) + F.cross_entropy(logits, labels[partner])

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.classifier.log_probs(inputs)


class ErasingConsistency(nn.Module):
    """EAC in spirit: with parts of the input erased, what the net attends to stays the same.

    The original compares class activation maps of a flipped image. A perceptron has no maps, so
    each embedding feature times its class weights takes their place, and nothing is flipped.
    """

    def __init__(
        self,
        task: Task,
        *,
        weight: float = 5.0,
        erased: float = 0.25,
        log_prior: Tensor | float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(task.inputs.shape[1])
        self.head = nn.Linear(EMBEDDING_DIM, task.num_classes)
        self.weight, self.erased, self.log_prior = weight, erased, log_prior

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        kept = (torch.rand_like(inputs) > self.erased).to(inputs.dtype)
        first, second = self.encoder(inputs * kept), self.encoder(inputs)
        maps = [each.unsqueeze(1) * self.head.weight for each in (first, second)]
        logits = self.head(first) + self.log_prior
        return F.cross_entropy(logits, labels) + self.weight * F.mse_loss(*maps)

    def log_probs(self, inputs: Tensor) -> Tensor:
        log_probs: Tensor = self.head(self.encoder(inputs)).log_softmax(-1)
        return log_probs


class Centers(nn.Module):
    """Center loss beside cross-entropy."""

    def __init__(self, task: Task, *, weight: float = 0.003) -> None:
        super().__init__()
        self.classifier = Classifier(task, F.cross_entropy)
        self.centers = nn.Parameter(torch.randn(task.num_classes, EMBEDDING_DIM))
        self.weight = weight

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        embedding = self.classifier.encoder(inputs)
        pull = center_distance(embedding, labels, self.centers)
        return F.cross_entropy(self.classifier.head(embedding), labels) + self.weight * pull

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.classifier.log_probs(inputs)


class Proxies(nn.Module):
    """A proxy loss of pytorch-metric-learning; predicts by the softmax of its own similarities."""

    def __init__(self, task: Task, loss: str, **options: float) -> None:
        super().__init__()
        from pytorch_metric_learning import losses

        self.encoder = make_encoder(task.inputs.shape[1])
        self.proxy_loss = getattr(losses, loss)(task.num_classes, EMBEDDING_DIM, **options)
        self.scale = float(getattr(self.proxy_loss, "la", 20))

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        loss: Tensor = self.proxy_loss(self.encoder(inputs), labels)
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        embedding = self.encoder(inputs)
        similarity: Tensor = (
            self.proxy_loss.get_logits(embedding)
            if hasattr(self.proxy_loss, "get_logits")
            else F.normalize(embedding) @ F.normalize(self.proxy_loss.proxies).T
        )
        return (self.scale * similarity).log_softmax(-1)


class Balanced(nn.Module):
    """Our balancer alone: the labels as they are."""

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


class Refurbished(Balanced):
    """Our balancer with refurbished targets and mixing."""

    def __init__(
        self,
        task: Task,
        targets: RefurbishedTargets,
        concentration: float = 1.0,
        mix_from: int = 0,
        **options: Unpack[BalancerOptions],
    ) -> None:
        super().__init__(task, **options)
        self.targets = targets
        self.concentration = concentration
        self.mix_from = mix_from

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        output = self.predict(inputs)
        soft = self.targets(index, labels, output.corrected)
        judged = output, soft
        if epoch >= self.mix_from:
            judged = mix(self.balancer, output.embedding, soft, concentration=self.concentration)
        loss: Tensor = self.criterion(*judged).total
        return loss


def robust(task: Task) -> Refurbished:
    """Our robust recipe: no memory of labels, a linear head, and the classes' frequencies."""
    targets = RefurbishedTargets.for_long_training(len(task.labels), task.num_classes)
    return Refurbished(
        task,
        targets,
        concentration=0.3,
        mix_from=7,
        head="linear",
        class_prior=_class_counts(task),
    )


def logit_adjusted(task: Task, head: Callable[[int, int], nn.Module] = MLPHead) -> Classifier:
    """Cross-entropy that is told the classes' frequencies, and answers for even ones."""
    log_prior = _log_prior(task)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + log_prior, labels)

    return Classifier(task, loss, head=head)


def _log_prior(task: Task) -> Tensor:
    counts = _class_counts(task)
    return (counts / counts.sum()).log()


def _class_counts(task: Task) -> Tensor:
    """One sample more for each class, since a rare one may be missing from a noisy draw."""
    return task.labels.bincount(minlength=task.num_classes) + 1


def _smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.11)


METHODS: dict[str, Callable[[Task], Method]] = {
    "cross-entropy": lambda task: Classifier(task, F.cross_entropy),
    "label smoothing": lambda task: Classifier(task, _smoothed),
    "logit adjustment": logit_adjusted,
    "focal": lambda task: Classifier(task, focal),
    "GCE": lambda task: Classifier(task, generalised_cross_entropy),
    "symmetric CE": lambda task: Classifier(task, symmetric_cross_entropy),
    "ELR": EarlyLearning,
    "SCN": SelfCure,
    "RUL": RelativeUncertainty,
    "EAC": ErasingConsistency,
    "EAC, logit-adjusted": lambda task: ErasingConsistency(task, log_prior=_log_prior(task)),
    "center loss": Centers,
    "SoftTriple": lambda task: Proxies(task, "SoftTripleLoss"),
    "ProxyAnchor": lambda task: Proxies(task, "ProxyAnchorLoss"),
    "cross-entropy, linear head": lambda task: Classifier(task, F.cross_entropy, head=nn.Linear),
    "GCE, linear head": lambda task: Classifier(task, generalised_cross_entropy, head=nn.Linear),
    "ELR, linear head": lambda task: EarlyLearning(task, head=nn.Linear),
    "logit adjustment, linear head": lambda task: logit_adjusted(task, nn.Linear),
    "ours, paper": lambda task: Balanced(task, recipe="paper"),
    "ours, robust": robust,
}
