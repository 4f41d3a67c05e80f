"""Methods of others with two views of each sample, written from their papers.

They have the authors' settings for CIFAR-10. Each docstring says what is simplified.
"""

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from benchmarks.data.task import Task
from benchmarks.methods.base import Method
from benchmarks.methods.losses import (
    class_balance,
    early_learning_term,
    mixmatch,
    mixup,
    view_consistency,
)
from benchmarks.methods.others import EarlyLearning, OverParameterised


class EarlyLearningPlus(EarlyLearning):
    """ELR+: averages of the predictions of a weight-averaged network, and mixup.

    Simplified: one network instead of two that give each other targets. The averaged network gets
    one view, without gradient; the network trains on the other. The averaged network predicts.
    The decay of the average starts small, for short trainings.
    """

    passes = 2
    decay, concentration = 0.997, 1.0

    def __init__(self, task: Task, budget: int) -> None:
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
        targets = torch.cat([self.shares[index], average], 1)
        mixed, targets = mixup(second, targets, self.concentration)
        wanted, average = targets.chunk(2, 1)
        logits = self.network(mixed)
        return F.cross_entropy(logits, wanted) + self.weight * early_learning_term(logits, average)

    def log_probs(self, inputs: Tensor) -> Tensor:
        log_probs: Tensor = self.averaged(self.seen.plain(inputs)).log_softmax(-1)
        return log_probs


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
            + self.balance * class_balance(first.log_softmax(-1), self.shares.mean(0))
        )


class SemiSupervised(Method):
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

    def __init__(self, task: Task, budget: int) -> None:
        super().__init__(task, budget)
        self.warmup = max(1, round(self.warmup_share * self.epochs))
        self.epoch = 0
        self.register_buffer("trusted", torch.ones(len(self.shares)))
        self.register_buffer("probs", self.shares.mean(0).expand_as(self.shares).clone())

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
        targets = _sharpen((trust * self.shares[index] + (1 - trust) * guess), self.temperature)
        targets = targets.where(is_trusted, _sharpen(guess, self.temperature))
        mixed, targets = mixup(second, targets, self.concentration)
        logits = self.network(mixed)
        ramp = (epoch - self.warmup + 1) / (self.epochs - self.warmup)
        matched = mixmatch(logits, targets, is_trusted.squeeze(1), ramp * self.guessed_weight)
        return matched + class_balance(logits.log_softmax(-1), self.shares.mean(0))

    def warmup_loss(self, index: Tensor, inputs: Tensor) -> Tensor:
        """Return the cross-entropy of both views."""
        logits = self.logits(inputs, 2)
        self.probs[index] = torch.stack(logits).detach().softmax(-1).mean(0)
        losses = [F.cross_entropy(each, self.shares[index]) for each in logits]
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
        losses = F.kl_div(log_probs, self.shares, reduction="none").sum(1)
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

    def __init__(self, task: Task, budget: int) -> None:
        super().__init__(task, budget)
        self.last_layers = min(2, self.epochs - self.warmup - 1)
        self.fitted = self.warmup
        self.warmup += max(0, self.last_layers)

    def begin_epoch(self, epoch: int) -> None:
        self.network.requires_grad_(True)
        if epoch >= self.warmup:
            self.trusted = (self.probs.argmax(1) == self.shares.argmax(1)).float()
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
