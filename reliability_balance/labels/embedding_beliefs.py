"""Predict each label from the other samples, by their embeddings, without gradient training."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reliability_balance.labels.noise_matrix import as_noise_matrix
from reliability_balance.labels.posterior import label_posterior, sharpen
from reliability_balance.labels.rows import blocks
from reliability_balance.labels.targets import RefurbishedTargets

# Numbers of nearest neighbours that vote.
NEIGHBOURS = (5, 15, 45)
# Ridge penalties, relative to the variance of a standardised feature.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Numbers of samples to choose settings on, of candidate neighbours, and of dimensions of the ridge
# regression: more of them cost time and change little.
CHOOSING, VOTING, DIRECTIONS = 500, 50_000, 1024
# A row counts at most as this multiple of the median distance from the centre.
FARTHEST = 2.0
# Elements per block of a matrix for an efficient matrix product.
PRODUCT_BLOCK = 2**24
# The second round uses the labels refurbished by the first. More rounds reinforce their own errors.
ROUNDS = 2
# Settings of the targets that differ from the robust recipe: each sample is predicted once, without
# its own label, so there is no memorization.
SETTINGS: dict[str, Any] = {
    "warmup": 0,
    "temperature": 0.5,
    "noise_temperature": 1.0,
    "prior_count": 0.0,
}
BIAS_STEPS, NOISE_STEPS, POOL_STEPS = 1, 3, 8


class EmbeddingBeliefs:
    """Leave-one-out predictor of labels, by nearest neighbours and ridge regression.

    The k nearest neighbours vote, for several k, in the space (centred, standardised or unit norm)
    in which they predict labels best. Ridge regression has a closed form for the prediction of a
    sample without that sample. The experts are pooled by the softmax of their weighted sum, with
    weights of maximum likelihood.

    Args:
        points: embeddings.
        labels: class probabilities, to choose the settings.
        generator: CPU generator to draw the samples that settings are chosen on.

    Shape:
        - points: (N, D) float32 or float64, N >= 2; labels: (N, C) floating.
    """

    def __init__(self, points: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        order = torch.randperm(len(points), generator=generator, device="cpu").to(points.device)
        self.chosen, voters = order[:CHOOSING], order[:VOTING].sort().values
        spaces = _spaces(points)

        prior = _shares(labels)

        def likelihood(space: Tensor) -> float:
            nearest = _nearest(space, self.chosen, voters, NEIGHBOURS[-1])
            votes = torch.stack(list(_votes(nearest, labels, prior)))
            return float((labels[self.chosen] * votes).sum())

        rows = torch.arange(len(points), device=points.device)
        self.nearest = _nearest(max(spaces, key=likelihood), rows, voters, NEIGHBOURS[-1])
        drawn_in = _drawn_in(spaces[1])
        self.linear = _Ridge(drawn_in - drawn_in.mean(0), labels, self.chosen, generator)

    def predict(self, labels: Tensor) -> Tensor:
        """Predict the label distribution (N, C) of each sample from labels (N, C) of the others."""
        prior, solution = _shares(labels), self.linear.solve(labels)
        scale = self.linear.predict(self.chosen, labels, prior, solution).std().clamp_min(1e-4)

        def experts(rows: Tensor) -> Iterator[Tensor]:
            yield self.linear.predict(rows, labels, prior, solution).div_(scale)
            yield from _votes(self.nearest[rows], labels, prior)

        weights = _pool(torch.stack(list(experts(self.chosen))), labels[self.chosen])
        predicted = torch.zeros_like(labels)
        for rows in blocks(torch.arange(len(labels), device=labels.device), labels.shape[1]):
            scores = predicted[rows]
            for weight, expert in zip(weights, experts(rows), strict=True):
                scores += weight * expert
            predicted[rows] = scores.softmax(-1)
        return predicted


def _spaces(points: Tensor) -> list[Tensor]:
    """Return the embeddings centred, standardised, and normalised to unit length.

    Far rows do not determine mean and spread.
    """
    usual = _drawn_in(points)
    centre, spread = usual.mean(0), usual.std(0, correction=0)
    is_constant = spread <= 8 * torch.finfo(points.dtype).eps * usual.abs().amax(0)
    centred = points - centre
    standardised = torch.where(is_constant, 0.0, centred / spread.where(~is_constant, 1.0))
    return [centred, standardised, F.normalize(points, dim=-1)]


def _drawn_in(points: Tensor) -> Tensor:
    """Draw rows towards the coordinates' medians, to at most FARTHEST median distances."""
    middle = points.median(0).values
    away = points - middle
    largest = away.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(points.dtype).tiny)
    directions = away / largest  # squares of huge coordinates overflow
    lengths = directions.norm(dim=-1, keepdim=True)
    limit = FARTHEST * (largest * lengths).median()
    is_far = (largest * lengths > limit) & (limit > 0)  # 0: most rows are equal
    return torch.where(is_far, middle + directions * (limit / lengths), points)


def _nearest(space: Tensor, rows: Tensor, voters: Tensor, count: int) -> Tensor:
    """Return the indices (B, K) of the voters nearest to these samples, nearest first."""
    voting = space if len(voters) == len(space) else space[voters]
    squares = voting.square().sum(-1)
    count = min(count, len(voters) - 1)
    found = []
    whole = voting.new_empty(min(len(rows), max(1, PRODUCT_BLOCK // len(voters))), len(voters))
    for block in blocks(rows, len(voters), PRODUCT_BLOCK):
        nearness = torch.mm(2.0 * space[block], voting.T, out=whole[: len(block)])
        nearness -= squares  # without |x|^2, which is constant
        place = torch.searchsorted(voters, block).clamp_max(len(voters) - 1)
        itself = voters[place] == block
        nearness[itself, place[itself]] = -torch.inf
        found.append(voters[nearness.topk(count).indices])
    return torch.cat(found)


def _shares(labels: Tensor) -> Tensor:
    """Return the class shares (C,), smoothed by one label spread evenly over the classes."""
    return (labels.sum(0) + 1.0 / labels.shape[1]) / (len(labels) + 1.0)


def _votes(nearest: Tensor, labels: Tensor, prior: Tensor) -> Iterator[Tensor]:
    """Yield the log mean label (B, C) of k neighbours, for each k; the prior counts as one more."""
    total, before = prior, 0
    for count in NEIGHBOURS:
        part = nearest[:, before:count]
        if part.shape[1]:
            total = F.embedding_bag(part.contiguous(), labels, mode="sum").add_(total)
            before += part.shape[1]
            yield (total / (before + 1.0)).log_()


class _Ridge:
    """Leave-one-out ridge regression of labels on standardised embeddings.

    With hat matrix H, the prediction of a sample without itself is (f_i - H_ii y_i) / (1 - H_ii).
    """

    def __init__(
        self, space: Tensor, labels: Tensor, chosen: Tensor, generator: torch.Generator
    ) -> None:
        count, width = space.shape
        if width > DIRECTIONS:
            drawn = torch.randn(width, DIRECTIONS, generator=generator, device="cpu")
            space = space @ drawn.to(space) / math.sqrt(DIRECTIONS)
            space = space - space.mean(0)
        if len(space) < space.shape[1]:
            squares, left = torch.linalg.eigh((space @ space.T).double())
            basis = left
        else:
            squares, right = torch.linalg.eigh((space.T @ space).double())
            basis = space @ (right / squares.clamp_min(1e-9).sqrt()).to(space)
        kept = squares > 1e-6 * squares.amax().clamp_min(1e-9)
        self.basis, squares = basis[:, kept].to(space), squares[kept].to(space)
        options = [squares / (squares + ridge * count) for ridge in RIDGES]

        prior, products = _shares(labels), self.products(labels)

        def error(shrink: Tensor) -> float:
            self._shrink(shrink)
            predicted = self.predict(chosen, labels, prior, shrink.unsqueeze(-1) * products)
            return float((predicted - (labels[chosen] - prior)).square().sum())

        self._shrink(min(options, key=error))

    def _shrink(self, shrink: Tensor) -> None:
        self.shrink = shrink
        self.leverage = self.basis.square() @ shrink + 1.0 / len(self.basis)

    def solve(self, labels: Tensor) -> Tensor:
        """Return the ridge coefficients (R, C) in the basis."""
        return self.shrink.unsqueeze(-1) * self.products(labels)

    def products(self, labels: Tensor) -> Tensor:
        """Return the least-squares coefficients (R, C). The basis is orthogonal to constants."""
        products: Tensor = self.basis.T @ labels
        return products

    def predict(self, rows: Tensor, labels: Tensor, prior: Tensor, solution: Tensor) -> Tensor:
        """Return leave-one-out predictions (B, C), relative to the class shares."""
        leverage = self.leverage[rows].unsqueeze(-1)
        own = leverage * (labels[rows] - prior)
        fitted: Tensor = self.basis[rows] @ solution - own
        return fitted.div_((1.0 - leverage).clamp_min(1e-3))


def _pool(experts: Tensor, labels: Tensor) -> Tensor:
    """Fit positive weights (E,) of the experts by likelihood, with a prior at equal weights."""
    start = torch.full_like(experts[:, 0, 0], -math.log(len(experts)))
    logs = start
    for _ in range(POOL_STEPS):  # Gauss-Newton
        weights = logs.exp()
        probs = torch.einsum("e,enc->nc", weights, experts).softmax(-1)
        slope = weights * torch.einsum("enc,nc->e", experts, probs - labels) + logs - start
        away = (experts - (experts * probs).sum(-1, keepdim=True)) * probs.sqrt()
        away = (weights[:, None, None] * away).flatten(1)
        curvature = away @ away.T + torch.eye(len(weights), dtype=away.dtype, device=away.device)
        logs = logs - torch.linalg.solve(curvature, slope).clamp(-1.0, 1.0)
    return logs.exp()


def take_in(targets: RefurbishedTargets, predicted: Tensor, labels: Tensor) -> Tensor:
    """Store predictions as averages, fit class bias and noise matrix, and return the posteriors.

    Does for all samples at once what :meth:`labels.RefurbishedTargets.forward` does in many calls.

    Args:
        targets: updated in place; class bias and noise matrix start at their current values.
        predicted: leave-one-out predictions of the samples.
        labels: class indices or class probabilities.

    Shape:
        - predicted: (N, C); labels: (N,) int64 or (N, C) floating; returns (N, C).
    """
    count, num_classes = predicted.shape
    rows = torch.arange(count, device=predicted.device)
    tiny = torch.finfo(predicted.dtype).tiny
    shares, bias = predicted.mean(0), targets.classes.tilt.to(predicted.dtype)
    beliefs = torch.empty_like(predicted)
    for step in range(BIAS_STEPS + 1):
        for block in blocks(rows, num_classes):
            beliefs[block] = sharpen(predicted[block], targets.temperature, bias)
        if step < BIAS_STEPS:
            bias = bias + shares.clamp_min(tiny).log() - beliefs.mean(0).clamp_min(tiny).log()

    targets.out_of_sample.record(rows, predicted, torch.ones_like(rows, dtype=torch.bool))

    joint = targets.joint.to(predicted.dtype)
    for _ in range(NOISE_STEPS):
        # In column-major order, because each label reads one column.
        noise_matrix = as_noise_matrix(joint, count).T.contiguous().T
        by_label = torch.zeros_like(joint)
        for block in blocks(rows, num_classes):
            posterior = label_posterior(beliefs[block], labels[block], noise_matrix)
            if labels.is_floating_point():
                by_label += labels[block].to(posterior.dtype).T @ posterior
            else:
                by_label.index_add_(0, labels[block], posterior)
        joint = by_label.T / count

    for block in blocks(rows, num_classes):
        part, first = predicted[block], labels[block]
        first = first.argmax(-1) if first.is_floating_point() else first
        targets.averages.write(block, part, targets.averages.largest(part, first))
    targets.updates.fill_(ROUNDS)
    targets.counts.replace(joint)
    classes = targets.classes
    classes.tilt.copy_(bias)
    classes.shares.copy_(torch.stack([shares, beliefs.mean(0)]))
    classes.moments.copy_(torch.stack([beliefs.mean(0), beliefs.square().mean(0)]))
    noise_matrix = targets.noise_matrix.T.contiguous().T
    for block in blocks(rows, num_classes):
        beliefs[block] = label_posterior(beliefs[block], labels[block], noise_matrix)
    return beliefs
