"""Other methods as modules: the shared encoder, a head, a training loss, and predictions.

Most have the paper's MLP head, which is better than a linear one for methods that memorize wrong
labels; some have both variants.
"""

from collections.abc import Callable

import torch
from losses_of_others import (
    center_distance,
    early_learning_term,
    mix_by_uncertainty,
    rank_regularisation,
)
from noisy_data import Task, class_counts
from shared_encoder import EMBEDDING_DIM, make_encoder
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance.core import MLPHead

MakeHead = Callable[[int, int], nn.Module]


class Classifier(nn.Module):
    """Encoder, the paper's MLP head or another, and a loss on logits; used for most methods."""

    def __init__(
        self,
        task: Task,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        head: MakeHead = MLPHead,
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
    """ELR: cross-entropy, regularised towards the running average of each sample's predictions."""

    average: Tensor

    def __init__(
        self,
        task: Task,
        *,
        weight: float = 3.0,
        momentum: float = 0.7,
        head: MakeHead = MLPHead,
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
    """SCN: ranked importance weights of samples; doubtful labels are changed from epoch 10."""

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
            highest, other = probs.max(-1)
            doubted = highest - probs.gather(1, labels[low].unsqueeze(1)).squeeze(1)
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
    """RUL: pairs are mixed by their learned uncertainties and must predict both labels."""

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
    """EAC, adapted: consistent attention when parts of the input are erased.

    The original compares class activation maps of a flipped image. A perceptron has no maps, so we
    use each embedding feature times its class weights, without flipping.
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
    """Cross-entropy with center loss."""

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
    """A proxy loss of pytorch-metric-learning, which predicts by a softmax of its similarities."""

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


def logit_adjusted(task: Task, head: MakeHead = MLPHead) -> Classifier:
    """Logit adjustment: cross-entropy with the class prior, which predicts for even classes."""
    log_prior = log_prior_of(task)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + log_prior, labels)

    return Classifier(task, loss, head=head)


def log_prior_of(task: Task) -> Tensor:
    """Return the log-frequencies of the classes (C,)."""
    counts = class_counts(task)
    return (counts / counts.sum()).log()


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the paper's label smoothing."""
    return F.cross_entropy(logits, labels, label_smoothing=0.11)
