"""The balancer and its baselines: each a loss of one batch with its trained tensors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.losses import SoftTripleLoss
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance import functional as RF

WIDEST_PAIRWISE = 2**26  # maximum number of elements of (B, C, K, D)


class Size(NamedTuple):
    """Batch size, embedding width, classes, and anchors of each class."""

    batch: int
    dim: int
    classes: int
    anchors: int

    def __str__(self) -> str:
        return f"B {self.batch:,}, D {self.dim:,}, C {self.classes:,}, K {self.anchors}"


class Batch(NamedTuple):
    """Embeddings (B, D) with gradient, and labels (B,)."""

    embedding: Tensor
    labels: Tensor


class Head(NamedTuple):
    """A loss of a batch, and the tensors to differentiate it by."""

    loss: Callable[[], Tensor]
    trained: list[Tensor]

    def forward(self) -> None:
        """Compute the loss alone."""
        with torch.no_grad():
            self.loss()

    def step(self) -> None:
        """Compute the loss and its gradients."""
        torch.autograd.grad(self.loss(), self.trained)


def make_batch(size: Size) -> Batch:
    """Draw a batch."""
    embedding = torch.randn(size.batch, size.dim).requires_grad_()
    return Batch(embedding, torch.randint(size.classes, (size.batch,)))


def balancer(size: Size, batch: Batch, **options: Any) -> Head:
    """Return our balancer with a linear head, and all of its losses."""
    module = ReliabilityBalancer(
        size.dim, size.classes, num_anchors=size.anchors, head="linear", **options
    )
    criterion = ReliabilityLoss()
    return Head(
        lambda: criterion(module(batch.embedding), batch.labels).total,
        [batch.embedding, *module.parameters()],
    )


def linear(size: Size, batch: Batch) -> Head:
    """Return a linear head with cross-entropy."""
    module = nn.Linear(size.dim, size.classes)
    return Head(
        lambda: F.cross_entropy(module(batch.embedding), batch.labels),
        [batch.embedding, *module.parameters()],
    )


def soft_triple(size: Size, batch: Batch) -> Head:
    """Return SoftTriple of pytorch-metric-learning, with as many centres as anchors."""
    module = SoftTripleLoss(size.classes, size.dim, centers_per_class=size.anchors)

    def loss() -> Tensor:
        value: Tensor = module(batch.embedding, batch.labels)
        return value

    return Head(loss, [batch.embedding, *module.parameters()])


def anchor_branch(size: Size, batch: Batch) -> Head:
    """Return only Eq. 12-14 and 22, by the library."""
    anchors = _anchors(size)

    def loss() -> Tensor:
        distances = RF.anchor_distances(batch.embedding, anchors, validate_args=False)
        return _branch_loss(distances, batch.labels)

    return Head(loss, [batch.embedding, anchors])


def pairwise_branch(size: Size, batch: Batch) -> Head:
    """Return the same with the differences of Eq. 12 materialised, (B, C, K, D)."""
    anchors = _anchors(size)

    def loss() -> Tensor:
        differences = batch.embedding[:, None, None] - anchors
        distances = differences.square().sum(-1).clamp_min(1e-18).sqrt()
        return _branch_loss(distances, batch.labels)

    return Head(loss, [batch.embedding, anchors])


def matmul_softmax(size: Size, batch: Batch) -> Head:
    """Return the product of embeddings and anchors with a softmax: a lower bound of the cost."""
    anchors = _anchors(size)

    def loss() -> Tensor:
        shares = (batch.embedding @ anchors.flatten(0, 1).T).softmax(-1)
        total: Tensor = shares.square().sum()
        return total

    return Head(loss, [batch.embedding, anchors])


def fits_pairwise(size: Size) -> bool:
    """Return whether (B, C, K, D) fits into memory."""
    return size.batch * size.dim * size.classes * size.anchors <= WIDEST_PAIRWISE


def _anchors(size: Size) -> Tensor:
    shape = size.classes, size.anchors, size.dim
    anchors: Tensor = torch.randn(shape) * size.dim**-0.5
    anchors.requires_grad_()
    return anchors


def _branch_loss(distances: Tensor, labels: Tensor) -> Tensor:
    log_probs = RF.anchor_log_correction(distances)
    center = RF.nearest_anchor_loss(distances, labels, validate_args=False)
    return F.nll_loss(log_probs, labels) + center
