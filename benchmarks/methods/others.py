"""Methods of others with one view of each sample, written from their papers, by their settings.

On pixels most have the paper's MLP head, which is better than a linear one for methods that
memorize wrong labels; some have both variants. Each docstring says what is simplified.
"""

from collections.abc import Callable
from functools import partial

import torch
from cleanlab.rank import get_label_quality_scores
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data.task import Task
from benchmarks.methods.base import MakeHead, Method, Plain, log_prior_of
from benchmarks.methods.losses import (
    center_distance,
    early_learning_term,
    mix_by_uncertainty,
    over_parameterised,
    rank_regularisation,
)
from benchmarks.training import cross_validated, trained


class EarlyLearning(Method):
    """ELR (Liu et al., NeurIPS 2020): regularise towards the average of a sample's predictions."""

    average: Tensor

    def __init__(
        self,
        task: Task,
        budget: int,
        *,
        weight: float = 3.0,
        momentum: float = 0.7,
        head: MakeHead = nn.Linear,
    ) -> None:
        super().__init__(task, budget, head=head)
        self.weight, self.momentum = weight, momentum
        self.register_buffer("average", torch.zeros_like(self.shares))

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        logits = self.logits(inputs)[0]
        pull = early_learning_term(logits, self.take_in(index, logits))
        return F.cross_entropy(logits, self.shares[index]) + self.weight * pull

    def take_in(self, index: Tensor, logits: Tensor) -> Tensor:
        """Update the averages with these predictions and return them."""
        probs = logits.detach().softmax(-1)
        self.average[index] = self.momentum * self.average[index] + (1 - self.momentum) * probs
        return self.average[index]


class SelfCure(Method):
    """SCN (Wang et al., 2020): ranked importance of samples; changes doubtful labels later."""

    changed: Tensor

    def __init__(
        self,
        task: Task,
        budget: int,
        *,
        relabel_from: int = 10,
        relabel_margin: float = 0.2,
        head: MakeHead = nn.Linear,
    ) -> None:
        super().__init__(task, budget, head=head)
        self.importance = nn.Linear(task.network.width, 1)
        self.relabel_from, self.relabel_margin = relabel_from, relabel_margin
        self.register_buffer("changed", task.labels.clone())

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        embedding = self.embedding(inputs)
        weights = self.importance(embedding).sigmoid()
        logits = self.head(embedding)
        labels = self.changed[index]
        if epoch >= self.relabel_from:
            low = weights.squeeze(1).argsort(descending=True)[round(0.7 * len(labels)) :]
            probs = (weights * logits).detach()[low].softmax(-1)
            highest, other = probs.max(-1)
            doubted = highest - probs.gather(1, labels[low].unsqueeze(1)).squeeze(1)
            moved = low[doubted > self.relabel_margin]
            self.changed[index[moved]] = other[doubted > self.relabel_margin]
        loss = F.cross_entropy(weights * logits, labels)
        return loss + rank_regularisation(weights.squeeze(1))

    def log_probs(self, inputs: Tensor) -> Tensor:
        embedding = self.network[:-1](self.seen.plain(inputs))
        weights = self.importance(embedding).sigmoid()
        log_probs: Tensor = (weights * self.head(embedding)).log_softmax(-1)
        return log_probs


class RelativeUncertainty(Method):
    """RUL (Zhang et al., 2021): pairs, mixed by learned uncertainties, must predict both labels."""

    def __init__(self, task: Task, budget: int, *, head: MakeHead = nn.Linear) -> None:
        super().__init__(task, budget, head=head)
        self.log_scale = nn.Linear(task.network.width, 1)

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        embedding = self.embedding(inputs)
        partner = torch.randperm(len(labels))
        fused = mix_by_uncertainty(embedding, self.log_scale(embedding), partner)
        logits = self.head(fused)
        return F.cross_entropy(logits, labels) + F.cross_entropy(logits, labels[partner])


class ErasingConsistency(Method):
    """EAC, adapted: consistent attention when parts of the input are erased.

    The original compares class activation maps of a flipped image. A perceptron has no maps, so we
    use each embedding feature times its class weights, without flipping.
    """

    def __init__(
        self,
        task: Task,
        budget: int,
        *,
        weight: float = 5.0,
        erased: float = 0.25,
        is_adjusted: bool = False,
    ) -> None:
        super().__init__(task, budget)
        self.weight, self.erased = weight, erased
        self.log_prior = log_prior_of(task) if is_adjusted else 0.0

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        kept = (torch.rand_like(inputs) > self.erased).to(inputs.dtype)
        first, second = self.embedding(inputs * kept), self.embedding(inputs)
        one, other = (each.unsqueeze(1) * self.head.weight for each in (first, second))
        logits = self.head(first) + self.log_prior
        return F.cross_entropy(logits, labels) + self.weight * F.mse_loss(one, other)


class Centers(Method):
    """Cross-entropy with center loss (Wen et al., 2016)."""

    def __init__(
        self, task: Task, budget: int, *, weight: float = 0.003, head: MakeHead = nn.Linear
    ) -> None:
        super().__init__(task, budget, head=head)
        self.centers = nn.Parameter(torch.randn(task.num_classes, task.network.width))
        self.weight = weight

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        embedding = self.embedding(inputs)
        pull = center_distance(embedding, labels, self.centers)
        return F.cross_entropy(self.head(embedding), labels) + self.weight * pull


class Proxies(Method):
    """A proxy loss of pytorch-metric-learning, which predicts by a softmax of its similarities."""

    def __init__(self, task: Task, budget: int, *, loss: str, **options: float) -> None:
        from pytorch_metric_learning import losses

        super().__init__(task, budget, head=lambda width, num_classes: nn.Identity())
        self.proxy_loss = getattr(losses, loss)(task.num_classes, task.network.width, **options)
        self.scale = float(getattr(self.proxy_loss, "la", 20))

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        loss: Tensor = self.proxy_loss(self.embedding(inputs), labels)
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        embedding = self.network(self.seen.plain(inputs))
        similarity: Tensor = (
            self.proxy_loss.get_logits(embedding)
            if hasattr(self.proxy_loss, "get_logits")
            else F.normalize(embedding) @ F.normalize(self.proxy_loss.proxies).T
        )
        return (self.scale * similarity).log_softmax(-1)


class OverParameterised(Method):
    """SOP (Liu et al., ICML 2022): learn the noise of each label together with the network.

    The growth of u and v depends on learning rate times epochs, so the paper's rate, for 120
    epochs, is scaled for shorter trainings.
    """

    rate, rated_for = 10.0, 120

    def __init__(self, task: Task, budget: int) -> None:
        super().__init__(task, budget)
        self.step = self.rate * self.rated_for / self.epochs
        # Not parameters: they use plain gradient descent, not the network's optimizer.
        self.noise = [1e-8 * torch.randn_like(self.shares) for _ in ("u", "v")]

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return self.noisy_loss(index, self.logits(inputs)[0])

    def noisy_loss(self, index: Tensor, logits: Tensor) -> Tensor:
        """Return the loss of a batch; its backward pass updates u and v."""
        parts = [whole[index].requires_grad_() for whole in self.noise]
        for whole, part in zip(self.noise, parts, strict=True):
            part.register_hook(self._mover(whole, index))
        return over_parameterised(logits, self.shares[index], *parts)

    def _mover(self, whole: Tensor, index: Tensor) -> Callable[[Tensor], None]:
        def move(gradient: Tensor) -> None:
            whole[index] = (whole[index] - self.step * gradient).clamp(-1, 1)

        return move


class CrossValidated(Plain):
    """cleanlab's self-confidence: out-of-sample predictions for each label.

    Five more trainings with cross-entropy, for 5-fold cross-validation.
    """

    def __init__(self, task: Task, budget: int) -> None:
        super().__init__(task, budget)
        self.task, self.budget = task, budget

    def trust(self) -> Tensor:
        order = torch.randperm(len(self.shares))
        probs = cross_validated(
            partial(trained, partial(Plain, budget=self.budget)), self.task, order
        )
        quality = get_label_quality_scores(self.shares.argmax(1).numpy(), probs.double().numpy())
        return torch.from_numpy(quality)


def logit_adjusted(task: Task, budget: int, *, head: MakeHead = nn.Linear) -> Plain:
    """Logit adjustment: cross-entropy with the class prior, which predicts for even classes."""
    log_prior = log_prior_of(task)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + log_prior, labels)

    return Plain(task, budget, loss, head=head)
