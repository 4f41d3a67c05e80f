"""Predict each label from the other samples, by their embeddings, without gradient training."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reliability_balance import checks, numerics
from reliability_balance.core.attention import pool_tokens
from reliability_balance.labels.noise_matrix import as_noise_matrix
from reliability_balance.labels.posterior import as_probabilities, label_posterior
from reliability_balance.labels.rows import (
    WHOLE_CLASSES,
    DenseRows,
    Progress,
    Rows,
    SparseRows,
    blocks,
    followed,
    make_rows,
)
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


class Voters:
    """Labels of all samples to predict others from, stored in rows.

    Args:
        stored: a row for each sample.
        shares: class shares (C,) that the rest of a row is divided by; sets the dtype of results.
    """

    def __init__(self, stored: Rows, shares: Tensor) -> None:
        self.stored, self.shares = stored, shares
        self.num_classes, self.count = len(shares), len(stored.values)
        if isinstance(stored, DenseRows):
            self.total = stored.values.sum(0)
        else:
            self.total = self.products(shares.new_ones(self.count, 1)).squeeze(0)
        # Smoothed by one label spread evenly over the classes.
        self.prior = (self.total + 1.0 / self.num_classes) / (self.count + 1.0)

    @classmethod
    def of(cls, labels: Tensor, num_classes: int, dtype: torch.dtype) -> "Voters":
        """Store class indices (N,) or probabilities (N, C); no one-hot labels of many classes."""
        shares = torch.full((num_classes,), 1.0 / num_classes, dtype=dtype, device=labels.device)
        stored: Rows
        if labels.is_floating_point() or num_classes <= WHOLE_CLASSES:
            stored = DenseRows(0, num_classes, dtype)
            stored.values = as_probabilities(labels, shares.expand(1, -1))
        else:
            stored = SparseRows(len(labels), num_classes, 1, dtype).to(labels.device)
            stored.values.fill_(1.0)
            stored.classes.copy_(labels.unsqueeze(-1))
        return cls(stored, shares)

    def read(self, rows: Tensor) -> Tensor:
        """Return labels as probabilities (B, C)."""
        return self.stored.read(rows, self.shares).to(self.shares.dtype)

    def sum_of(self, places: Tensor) -> Tensor:
        """Return the sums (B, C) of the labels of K samples each, (B, K)."""
        if isinstance(self.stored, DenseRows):
            return F.embedding_bag(places, self.stored.values, mode="sum")
        classes, entries, rest = self._parts(places.flatten())
        sums = torch.outer(rest.unflatten(0, places.shape).sum(1), self.shares)
        shape = (len(places), -1)
        return sums.scatter_add_(1, classes.reshape(shape), entries.reshape(shape))

    def products(self, basis: Tensor) -> Tensor:
        """Return the sums (R, C) of labels times vectors of a basis (N, R)."""
        if isinstance(self.stored, DenseRows):
            return basis.T @ self.stored.values
        sums = basis.new_zeros(self.num_classes, basis.shape[1])
        of_rest = basis.new_zeros(basis.shape[1])
        for rows in blocks(torch.arange(self.count, device=basis.device), basis.shape[1]):
            classes, entries, rest = self._parts(rows)
            of_rest += rest @ basis[rows]
            for column, entry in zip(classes.T, entries.T, strict=True):
                sums.index_add_(0, column, entry.unsqueeze(-1) * basis[rows])
        return sums.T + torch.outer(of_rest, self.shares)

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return classes and entries (B, k), beyond a rest (B,) that all classes share."""
        stored = self.stored
        assert isinstance(stored, SparseRows)
        rest, classes = stored.rest_per_share(rows, self.shares), stored.classes[rows].long()
        entries = stored.values[rows].to(rest.dtype) - rest.unsqueeze(-1) * self.shares[classes]
        return classes, entries, rest


def points_of(embeddings: Tensor) -> Tensor:
    """Check embeddings; return them averaged over tokens and scaled to a usual size of 1.

    The scale is a power of two, so it is exact. Without it, squares of huge coordinates overflow.

    Args:
        embeddings: of any scale.

    Shape:
        - embeddings: (N, D) or (N, T, D) floating; returns (N, D), float32 or wider.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on a wrong shape, embeddings that are not finite, or sizes too far apart.

    Example:
        >>> points_of(torch.tensor([[3e30, -8e30], [0.0, 8e30]]))
        tensor([[ 0.2958, -0.7889],
                [ 0.0000,  0.7889]])
    """
    checks.floating("embeddings", embeddings)
    checks.rank("embeddings", embeddings, "(N, D) or (N, T, D)", 2, 3)
    if embeddings.shape[-1] == 0:
        raise ValueError(
            f"`embeddings` must have at least one coordinate; got {tuple(embeddings.shape)}"
        )
    points = numerics.widen(pool_tokens(embeddings))
    checks.finite("embeddings", points)
    if len(points) == 0:
        return points
    sizes = torch.maximum(points.amax(-1), -points.amin(-1))
    usual = sizes.median()  # one huge row changes no median
    exponent = int(usual.frexp().exponent)
    half = exponent // 2  # in two steps, as 2 to the exponent itself may overflow
    points = points * 2.0**-half * 2.0 ** (half - exponent)
    if not bool(points.isfinite().all()):
        raise ValueError(
            "`embeddings` must have rows of similar size; got a largest coordinate of "
            f"{float(usual):.0e} in the median row and {float(sizes.amax()):.0e} in another, too "
            f"far apart for {points.dtype}"
        )
    return points


class EmbeddingBeliefs:
    """Leave-one-out predictor of labels, by nearest neighbours and ridge regression.

    The k nearest neighbours vote, for several k, in the space (centred, standardised or unit norm)
    in which they predict labels best. Ridge regression has a closed form for the prediction of a
    sample without that sample. The experts are pooled by the softmax of their weighted sum, with
    weights of maximum likelihood.

    Args:
        points: embeddings.
        labels: labels of the samples, to choose the settings.
        generator: CPU generator to draw the samples that settings are chosen on.
        progress: called with the number of samples whose neighbours were found.

    Shape:
        - points: (N, D) float32 or float64, N >= 2.
    """

    def __init__(
        self,
        points: Tensor,
        labels: Voters,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> None:
        order = torch.randperm(len(points), generator=generator, device="cpu").to(points.device)
        self.chosen, voters = order[:CHOOSING], order[:VOTING].sort().values
        spaces = _spaces(points)

        def likelihood(space: Tensor) -> float:
            nearest = nearest_voters(space, self.chosen, voters, NEIGHBOURS[-1])
            votes = torch.stack(list(_votes(nearest, labels)))
            return float((labels.read(self.chosen) * votes).sum())

        rows = torch.arange(len(points), device=points.device)
        best = max(spaces, key=likelihood)
        self.nearest = nearest_voters(best, rows, voters, NEIGHBOURS[-1], progress)
        drawn_in = _drawn_in(spaces[1])
        self.linear = _Ridge(drawn_in - drawn_in.mean(0), labels, self.chosen, generator)

    def predict(self, labels: Voters) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of samples (B,), and their label distributions (B, C) by the others."""
        solution = self.linear.solve(labels)
        scale = self.linear.predict(self.chosen, labels, solution).std().clamp_min(1e-4)

        def experts(rows: Tensor) -> Iterator[Tensor]:
            yield self.linear.predict(rows, labels, solution).div_(scale)
            yield from _votes(self.nearest[rows], labels)

        weights = _pool(torch.stack(list(experts(self.chosen))), labels.read(self.chosen))
        every = torch.arange(len(self.nearest), device=self.nearest.device)
        for rows in blocks(every, labels.num_classes):
            scores = torch.zeros_like(labels.read(rows))
            for weight, expert in zip(weights, experts(rows), strict=True):
                scores += weight * expert
            yield rows, scores.softmax(-1)


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


def nearest_voters(
    space: Tensor, rows: Tensor, voters: Tensor, count: int, progress: Progress | None = None
) -> Tensor:
    """Return the indices (B, K) of the voters nearest to these samples, nearest first."""
    voting = space if len(voters) == len(space) else space[voters]
    squares = voting.square().sum(-1)
    count = min(count, len(voters) - 1)
    found = []
    whole = voting.new_empty(min(len(rows), max(1, PRODUCT_BLOCK // len(voters))), len(voters))
    for block in followed(blocks(rows, len(voters), PRODUCT_BLOCK), progress):
        nearness = torch.mm(2.0 * space[block], voting.T, out=whole[: len(block)])
        nearness -= squares  # without |x|^2, which is constant
        place = torch.searchsorted(voters, block).clamp_max(len(voters) - 1)
        itself = voters[place] == block
        nearness[itself, place[itself]] = -torch.inf
        found.append(voters[nearness.topk(count).indices])
    return torch.cat(found)


def _votes(nearest: Tensor, labels: Voters) -> Iterator[Tensor]:
    """Yield the log mean label (B, C) of k neighbours, for each k; the prior counts as one more."""
    total, before = labels.prior, 0
    for count in NEIGHBOURS:
        part = nearest[:, before:count]
        if part.shape[1]:
            total = labels.sum_of(part.contiguous()).add_(total)
            before += part.shape[1]
            yield (total / (before + 1.0)).log_()


class _Ridge:
    """Leave-one-out ridge regression of labels on standardised embeddings.

    With hat matrix H, the prediction of a sample without itself is (f_i - H_ii y_i) / (1 - H_ii).
    """

    def __init__(
        self, space: Tensor, labels: Voters, chosen: Tensor, generator: torch.Generator
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

        products = labels.products(self.basis)

        def error(shrink: Tensor) -> float:
            self._shrink(shrink)
            predicted = self.predict(chosen, labels, shrink.unsqueeze(-1) * products)
            return float((predicted - (labels.read(chosen) - labels.prior)).square().sum())

        self._shrink(min(options, key=error))

    def _shrink(self, shrink: Tensor) -> None:
        self.shrink = shrink
        self.leverage = self.basis.square() @ shrink + 1.0 / len(self.basis)

    def solve(self, labels: Voters) -> Tensor:
        """Return the ridge coefficients (R, C) in the basis, which is orthogonal to constants."""
        return self.shrink.unsqueeze(-1) * labels.products(self.basis)

    def predict(self, rows: Tensor, labels: Voters, solution: Tensor) -> Tensor:
        """Return leave-one-out predictions (B, C), relative to the class shares."""
        leverage = self.leverage[rows].unsqueeze(-1)
        own = leverage * (labels.read(rows) - labels.prior)
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


def take_in(
    targets: RefurbishedTargets, predicted: Iterable[tuple[Tensor, Tensor]], labels: Tensor
) -> None:
    """Store predictions as averages, and fit class bias and noise matrix.

    Does for all samples at once what :meth:`labels.RefurbishedTargets.forward` does in many calls,
    in blocks: no tensor has a row for each sample and a column for each class.

    Args:
        targets: updated in place; class bias and noise matrix start at their current values.
        predicted: blocks of samples (B,) and their leave-one-out predictions (B, C).
        labels: class indices (N,) or class probabilities (N, C).
    """
    count, num_classes, classes = len(labels), targets.num_classes, targets.classes
    shares = torch.zeros_like(classes.class_bias)
    for rows, part in predicted:
        first = labels[rows]
        first = first.argmax(-1) if first.is_floating_point() else first
        shares += part.sum(0) / count
        targets.out_of_sample.record(rows, part, torch.ones_like(rows, dtype=torch.bool))
        targets.averages.write(rows, part, targets.averages.largest(part, first))
    targets.updates.fill_(ROUNDS)
    classes.shares[0] = shares
    every = torch.arange(count, device=labels.device)

    def beliefs() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in blocks(every, num_classes):
            yield rows, targets.beliefs(rows)

    tiny = torch.finfo(shares.dtype).tiny
    for _ in range(BIAS_STEPS):
        mean = sum((part.sum(0) for _, part in beliefs()), torch.zeros_like(shares)) / count
        classes.class_bias += shares.clamp_min(tiny).log() - mean.clamp_min(tiny).log()

    joint = targets.joint
    for _ in range(NOISE_STEPS):
        # In column-major order, because each label reads one column.
        noise_matrix = as_noise_matrix(joint, count).T.contiguous().T
        by_label = torch.zeros_like(joint)
        for rows, part in beliefs():
            posterior = label_posterior(part, labels[rows], noise_matrix)
            if labels.is_floating_point():
                by_label += labels[rows].to(posterior.dtype).T @ posterior
            else:
                by_label.index_add_(0, labels[rows], posterior)
        joint = by_label.T / count
    targets.counts.replace(joint)
    classes.moments.zero_()
    for _, part in beliefs():
        classes.moments += torch.stack([part.sum(0), part.square().sum(0)]) / count
    classes.shares[1] = classes.moments[0]


def refurbished(targets: RefurbishedTargets, labels: Tensor, dtype: torch.dtype) -> Voters:
    """Return the posteriors of all samples, stored like the averages, to vote in the next round."""
    sparse = isinstance(targets.averages, SparseRows)
    stored = make_rows(
        len(labels),
        targets.num_classes,
        targets.kept,
        targets.averages.values.dtype if sparse else dtype,
    ).to(labels.device)
    posterior_of = targets.posterior_rule()
    for rows in blocks(torch.arange(len(labels), device=labels.device), targets.num_classes):
        posterior = posterior_of(targets.beliefs(rows), labels[rows])
        stored.write(rows, posterior, stored.largest(posterior, posterior.argmax(-1)))
    return Voters(stored, targets.classes.shares[0].to(dtype))
