"""Our method: a balancer on the network, trained with RobustLoss."""

from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from benchmarks.data.task import Task
from benchmarks.methods.base import Method
from reliability_balance import BalancerOutput, ReliabilityBalancer, RobustLoss, wrap
from reliability_balance.core import BalancerOptions, join_outputs
from reliability_balance.labels import RefurbishedTargets


class Ours(Method):
    """A balancer on the network, trained with RobustLoss on one or two views.

    Args:
        task: what it is trained on; the labels of annotators if it has them.
        budget: forward passes per sample.
        views: views of each sample.
        is_wrapped: wrap the network with its last layer, False: put the balancer in its place.
        kept: classes stored for each sample, as in `RobustLoss`.
        **options: of the balancer.
    """

    def __init__(
        self,
        task: Task,
        budget: int,
        *,
        views: int = 1,
        is_wrapped: bool = True,
        kept: int | None = None,
        **options: Unpack[BalancerOptions],
    ) -> None:
        self.passes = views
        head = nn.Linear if is_wrapped else partial(ReliabilityBalancer, **options)
        super().__init__(task, budget, head=head)
        if is_wrapped:
            self.network = wrap(self.network, **options)
        self.given = task.labels if task.annotators is None else task.annotators
        self.criterion = RobustLoss(self.network, self.given, epochs=self.epochs, kept=kept)
        self.for_even_classes = self.criterion.recipe.logit_adjustment

    @property
    def targets(self) -> RefurbishedTargets:
        """The criterion's refurbished targets."""
        return self.criterion.targets

    def loss(self, index: Tensor, inputs: Tensor, labels: Tensor, epoch: int) -> Tensor:
        output, *second = self.logits(inputs, self.passes)
        loss: Tensor = self.criterion(
            output, self.given[index], index, second=second[0] if second else None
        )
        return loss

    def log_probs(self, inputs: Tensor) -> Tensor:
        return self.output(inputs).log_probs

    def output(self, inputs: Tensor) -> BalancerOutput:
        """Return the balancer's output for the plain view."""
        output: BalancerOutput = self.network(self.seen.plain(inputs))
        return output

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> BalancerOutput:
        """Return the outputs of many inputs in eval mode."""
        self.eval()
        return join_outputs([self.output(part) for part in inputs.split(1000)])

    def trust(self) -> Tensor | None:
        if not self.criterion.recipe.refurbishes_labels:
            return None
        seen = (self.targets.updates > 0).nonzero().squeeze(1)
        trust = torch.full((len(self.given),), torch.nan)
        trust[seen] = self.targets.trust(seen, self.given[seen])
        return trust
