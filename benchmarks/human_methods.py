"""Methods for human labels, for any network, with one or two views of a sample.

All have the same budget of forward passes: a method with two passes per sample and epoch, with or
without gradient, trains for half the epochs. Methods of others are written from their papers, with
the authors' settings for CIFAR-10. Each docstring says what is simplified.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from cleanlab.rank import get_label_quality_scores
from human_tasks import HumanTask
from losses_of_others import (
    class_balance,
    early_learning_term,
    generalised_cross_entropy,
    mixmatch,
    mixup,
    over_parameterised,
    view_consistency,
)
from methods_of_others import smoothed
from noisy_data import Task
from robustness_runs import cross_validated, train
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from typing_extensions import Unpack

from reliability_balance import BalancerOutput, RobustLoss, wrap
from reliability_balance.core import BalancerOptions, get_recipe

Loss = Callable[[Tensor, Tensor], Tensor]


class HumanMethod(nn.Module):
    """A network, and all labels as probabilities (N, C).

    Attributes:
        passes: forward passes per sample and epoch.
        for_even_classes: whether predictions are for evenly frequent classes.
        epochs: number of epochs in the budget of forward passes.
    """

    labels: Tensor
    passes = 1
    for_even_classes = False

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__()
        self.seen = task.network
        self.network = self.seen.make()
        self.epochs = max(1, budget // self.passes)
        labels, num_classes = task.data.labels, task.data.num_classes
        soft = labels if labels.is_floating_point() else F.one_hot(labels, num_classes).float()
        self.register_buffer("labels", soft)

    def logits(self, inputs: Tensor, views: int = 1) -> list[Tensor]:
        """Return the logits of this many random views."""
        return [self.network(view) for view in self.seen.views(inputs, views)]

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        raise NotImplementedError

    def log_probs(self, inputs: Tensor) -> Tensor:
        log_probs: Tensor = self.network(self.seen.plain(inputs)).log_softmax(-1)
        return log_probs

    def trust(self) -> Tensor | None:
        """Return the trust in each label (N,), NaN if not trained on; None: no such score."""
        return None


class Plain(HumanMethod):
    """A loss on logits and labels."""

    def __init__(self, task: HumanTask, budget: int, loss: Loss = F.cross_entropy) -> None:
        super().__init__(task, budget)
        self.logit_loss = loss

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return self.logit_loss(self.logits(inputs)[0], labels)


class CrossValidated(Plain):
    """cleanlab's self-confidence: out-of-sample predictions for each label.

    Five more trainings with cross-entropy, for 5-fold cross-validation.
    """

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__(task, budget)
        self.task, self.budget = task, budget

    def trust(self) -> Tensor:
        data = self.task.data
        probs = cross_validated(self._fit, data, torch.randperm(len(data.labels)))
        quality = get_label_quality_scores(self.labels.argmax(1).numpy(), probs.double().numpy())
        return torch.from_numpy(quality)

    def _fit(self, part: Task) -> Plain:
        method = Plain(self.task._replace(data=part), self.budget)
        train(method, part, method.epochs)
        return method


class EarlyLearning(HumanMethod):
    """ELR (Liu et al., NeurIPS 2020): regularise towards the average of a sample's predictions."""

    weight, momentum = 3.0, 0.7
    average: Tensor

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__(task, budget)
        self.register_buffer("average", torch.zeros_like(self.labels))

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        logits = self.logits(inputs)[0]
        pull = early_learning_term(logits, self.take_in(index, logits))
        return F.cross_entropy(logits, self.labels[index]) + self.weight * pull

    def take_in(self, index: Tensor, logits: Tensor) -> Tensor:
        """Update the averages with these predictions and return them."""
        probs = logits.detach().softmax(-1)
        self.average[index] = self.momentum * self.average[index] + (1 - self.momentum) * probs
        return self.average[index]


class EarlyLearningPlus(EarlyLearning):
    """ELR+: averages of the predictions of a weight-averaged network, and mixup.

    Simplified: one network instead of two that give each other targets. The averaged network gets
    one view, without gradient; the network trains on the other. The averaged network predicts.
    The decay of the average starts small, for short trainings.
    """

    passes = 2
    decay, concentration = 0.997, 1.0

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__(task, budget)
        self.averaged = AveragedModel(self.network, avg_fn=self.average_in, use_buffers=True)
        self.averaged.requires_grad_(False)

    def average_in(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        """Return the average of a weight, updated with its current value."""
        decay = min(self.decay, (1 + int(count)) / (10 + int(count)))
        return decay * average + (1 - decay) * current

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        self.averaged.update_parameters(self.network)
        first, second = self.seen.views(inputs, 2)
        self.averaged.eval()
        average = self.take_in(index, self.averaged(first))
        targets = torch.cat([self.labels[index], average], 1)
        mixed, targets = mixup(second, targets, self.concentration)
        wanted, average = targets.chunk(2, 1)
        logits = self.network(mixed)
        return F.cross_entropy(logits, wanted) + self.weight * early_learning_term(logits, average)

    def log_probs(self, inputs: Tensor) -> Tensor:
        log_probs: Tensor = self.averaged(self.seen.plain(inputs)).log_softmax(-1)
        return log_probs


class OverParameterised(HumanMethod):
    """SOP (Liu et al., ICML 2022): learn the noise of each label together with the network.

    The growth of u and v depends on learning rate times epochs, so the paper's rate, for 120
    epochs, is scaled for shorter trainings.
    """

    rate, rated_for = 10.0, 120

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__(task, budget)
        self.step = self.rate * self.rated_for / self.epochs
        # Not parameters: they use plain gradient descent, not the network's optimizer.
        self.noise = [1e-8 * torch.randn_like(self.labels) for _ in ("u", "v")]

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        return self.noisy_loss(index, self.logits(inputs)[0])

    def noisy_loss(self, index: Tensor, logits: Tensor) -> Tensor:
        """Return the loss of a batch; its backward pass updates u and v."""
        parts = [whole[index].requires_grad_() for whole in self.noise]
        for whole, part in zip(self.noise, parts, strict=True):
            part.register_hook(self._mover(whole, index))
        return over_parameterised(logits, self.labels[index], *parts)

    def _mover(self, whole: Tensor, index: Tensor) -> Callable[[Tensor], None]:
        def move(gradient: Tensor) -> None:
            whole[index] = (whole[index] - self.step * gradient).clamp(-1, 1)

        return move


class OverParameterisedPlus(OverParameterised):
    """SOP+: SOP with consistency of two views and class balance; the paper has 300 epochs.

    Differs from the paper: the prior of the classes is that of the labels, not uniform.
    """

    passes, rated_for = 2, 300
    consistency, balance = 0.9, 0.1

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        first, second = self.logits(inputs, 2)
        return (
            self.noisy_loss(index, first)
            + self.consistency * view_consistency(first, second)
            + self.balance * class_balance(first.log_softmax(-1), self.labels.mean(0))
        )


class SemiSupervised(HumanMethod):
    """Base of DivideMix and PES: replace untrusted labels by predictions, and train with MixMatch.

    Simplified: one network refines its own labels. It predicts on one view, without gradient, and
    trains on the other. Labels are evaluated with the predictions of the last epoch, not in a
    separate pass. The class prior is that of the labels, not uniform. The warm-up is a share of the
    epochs, and the weight of predicted labels grows until the last epoch.
    """

    passes = 2
    warmup_share = 0.3
    temperature, concentration, guessed_weight = 0.5, 4.0, 25.0
    trusted: Tensor
    probs: Tensor

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__(task, budget)
        self.warmup = max(1, round(self.warmup_share * self.epochs))
        self.epoch = 0
        self.register_buffer("trusted", torch.ones(len(self.labels)))
        self.register_buffer("probs", self.labels.mean(0).expand_as(self.labels).clone())

    def begin_epoch(self, epoch: int) -> None:
        """Update the trust in the labels."""
        raise NotImplementedError

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        if epoch != self.epoch:
            self.epoch = epoch
            self.begin_epoch(epoch)
        if epoch < self.warmup:
            return self.warmup_loss(index, inputs)
        first, second = self.seen.views(inputs, 2)
        with torch.no_grad():
            guess = self.network(first).softmax(-1)
        self.probs[index] = guess
        trust = self.trusted[index].unsqueeze(1)
        is_trusted = trust > 0.5
        targets = _sharpen((trust * self.labels[index] + (1 - trust) * guess), self.temperature)
        targets = targets.where(is_trusted, _sharpen(guess, self.temperature))
        mixed, targets = mixup(second, targets, self.concentration)
        logits = self.network(mixed)
        ramp = (epoch - self.warmup + 1) / (self.epochs - self.warmup)
        matched = mixmatch(logits, targets, is_trusted.squeeze(1), ramp * self.guessed_weight)
        return matched + class_balance(logits.log_softmax(-1), self.labels.mean(0))

    def warmup_loss(self, index: Tensor, inputs: Tensor) -> Tensor:
        """Return the cross-entropy of both views."""
        logits = self.logits(inputs, 2)
        self.probs[index] = torch.stack(logits).detach().softmax(-1).mean(0)
        losses = [F.cross_entropy(each, self.labels[index]) for each in logits]
        return torch.stack(losses).mean()


class DivideMix(SemiSupervised):
    """DivideMix (Li et al., ICLR 2020): trust labels with a small loss.

    Each epoch fits a Gaussian mixture with two components to the losses; the trust in a label is
    the posterior of the component with the smaller mean.
    """

    def begin_epoch(self, epoch: int) -> None:
        if epoch < self.warmup:
            return
        log_probs = self.probs.clamp_min(1e-8).log()
        losses = F.kl_div(log_probs, self.labels, reduction="none").sum(1)
        values = ((losses - losses.min()) / (losses.max() - losses.min())).unsqueeze(1).numpy()
        mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
        shares = mixture.fit(values).predict_proba(values)
        self.trusted = torch.from_numpy(shares[:, mixture.means_.argmin()]).float()


class ProgressiveStopping(SemiSupervised):
    """PES (Bai et al., NeurIPS 2021): stop later layers earlier, since they memorize earlier.

    After the warm-up the last two layers (or blocks) are reset and trained for one epoch with the
    others frozen, then only the last one. From then on a label is trusted if the network predicts
    it.
    """

    def __init__(self, task: HumanTask, budget: int) -> None:
        super().__init__(task, budget)
        self.last_layers = min(2, self.epochs - self.warmup - 1)
        self.fitted = self.warmup
        self.warmup += max(0, self.last_layers)

    def begin_epoch(self, epoch: int) -> None:
        self.network.requires_grad_(True)
        if epoch >= self.warmup:
            self.trusted = (self.probs.argmax(1) == self.labels.argmax(1)).float()
        elif epoch >= self.fitted:
            layers = [each for each in self.network if list(each.parameters())]
            self.network.requires_grad_(False)
            for layer in layers[epoch - self.warmup :]:
                layer.requires_grad_(True)
                layer.apply(_reset)


def _reset(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
        layer.reset_parameters()


def _sharpen(probs: Tensor, temperature: float) -> Tensor:
    return (probs.clamp_min(1e-8).log() / temperature).softmax(-1)


class Ours(HumanMethod):
    """Our method: a wrapped network trained with RobustLoss, also on labels of annotators."""

    def __init__(
        self,
        task: HumanTask,
        budget: int,
        views: int = 1,
        **options: Unpack[BalancerOptions],
    ) -> None:
        self.passes = views
        super().__init__(task, budget)
        self.given = task.data.labels if task.annotators is None else task.annotators
        self.model = wrap(self.network, **options)
        self.criterion = RobustLoss(self.model, self.given, epochs=self.epochs)
        self.for_even_classes = self.criterion.recipe.even_classes

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        output, *second = (self.model(view) for view in self.seen.views(inputs, self.passes))
        loss: Tensor = self.criterion(
            output, self.given[index], index, second=second[0] if second else None
        )
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.predict(inputs).log_probs

    def primary_log_probs(self, inputs: Tensor) -> Tensor:
        """Return the log-probabilities of the primary branch."""
        return self.predict(inputs).primary_log_probs

    def predict(self, inputs: Tensor) -> BalancerOutput:
        """Return the balancer's output for the plain view."""
        output: BalancerOutput = self.model(self.seen.plain(inputs))
        return output

    def trust(self) -> Tensor | None:
        if not self.criterion.recipe.doubts_labels:
            return None
        targets = self.criterion.targets
        seen = (targets.updates > 0).nonzero().squeeze(1)
        trust = torch.full((len(self.given),), torch.nan)
        trust[seen] = targets.trust(seen, self.given[seen])
        return trust


ROBUST = get_recipe("robust")
# Ours without one part; the label says which.
WITHOUT: dict[str, Callable[[HumanTask, int], HumanMethod]] = {
    "ours, no anchors": partial(Ours, num_anchors=0),
    "ours, no fusion": partial(Ours, correction_weight=0.0),
    "ours, no mixing": partial(Ours, recipe=replace(ROBUST, mixing=None)),
    "ours, no held-back labels": partial(Ours, recipe=replace(ROBUST, held_back=0.0)),
    "ours, labels as given": partial(Ours, recipe=replace(ROBUST, doubts_labels=False)),
}
METHODS: dict[str, Callable[[HumanTask, int], HumanMethod]] = {
    "cross-entropy": Plain,
    "cleanlab": CrossValidated,
    "label smoothing": partial(Plain, loss=smoothed),
    "GCE": partial(Plain, loss=generalised_cross_entropy),
    "ELR": EarlyLearning,
    "SOP": OverParameterised,
    "ours": Ours,
    **WITHOUT,
    "ours, paper": partial(Ours, recipe="paper"),
    "ELR+": EarlyLearningPlus,
    "SOP+": OverParameterisedPlus,
    "PES": ProgressiveStopping,
    "DivideMix": DivideMix,
    "ours, two views": partial(Ours, views=2),
}
TWO_VIEWS = ("ELR+", "SOP+", "PES", "DivideMix", "ours, two views")
