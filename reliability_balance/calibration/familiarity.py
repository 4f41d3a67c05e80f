"""Out-of-distribution detection: how familiar an input is, from the balancer's output alone."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.settings import Configured

NEIGHBOURS = 3
QUANTILES = 1000
BLOCK = 4096  # samples whose distances are computed at once when fitting


class Familiarity(Configured):
    r"""Score how familiar inputs are, to detect those that belong to no class.

    The score compares an embedding with reference samples. No labels are used:

    .. math:: z(x) = W \, sign(e) \sqrt{|e|}, \quad
        d(x) = \tfrac{1}{3} \sum_{r \in N_3(x)} |z(x) - r|_2

    where e is ``BalancerOutput.embedding``, and N_3 holds the three references nearest to z. The
    square root evens out skewed activations. W whitens by the covariance S of the roots around
    the mean of their predicted class, shrunk halfway to a multiple of the identity:

    .. math:: W^T W = (S + \tfrac{tr S}{D} I)^{-1}

    ``distance`` returns d. Calling the module returns the share of fitting samples that are at
    least as far away: 1 is as familiar as it gets, 0 is farther than all of them. All samples
    beyond the farthest have a familiarity of 0; to rank these, use ``distance``.

    Fit on the outputs of training samples, in eval mode. A network that fits these closely puts
    new samples farther away, and more of them than `false_alarm_rate` are rejected. Pass
    `held_out` samples to calibrate the rate.

    It detects data of another kind. A new class that resembles the known ones is often missed.

    Args:
        embedding_dim: D, the width of the embedding.
        num_references: M reference samples to keep, at least 3.
        false_alarm_rate: share of in-distribution inputs that ``is_familiar`` rejects, in (0, 1).
        validate_args: whether to check that embeddings are finite and that the module is fitted,
            which waits for the device.

    Shape:
        - output: a :class:`BalancerOutput` of B samples, with or without anchors and tokens;
          returns (B,) floating in [0, 1], float32 or wider.

    State:
        ``whitening`` (D, D), transposed W; ``references`` (M, D), whitened; ``quantiles`` (1000,)
        of the fitting distances, ascending. All are buffers, and 0 until fitted.

    Raises:
        RuntimeError: if it is not fitted.
        TypeError: if `output` is no :class:`BalancerOutput`.
        ValueError: on wrong sizes or values, another embedding width, or non-finite embeddings.

    Differs from paper: not in it. It does not use the anchors: their distances detect
    out-of-distribution inputs less well (``benchmarks/results/out_of_distribution.md``).

    Reference: nearest neighbours as in Sun et al., Out-of-Distribution Detection with Deep Nearest
        Neighbors, ICML 2022, https://arxiv.org/abs/2204.06507; the covariance as in Lee et al.,
        NeurIPS 2018, https://arxiv.org/abs/1807.03888, with predicted for given classes; the root
        as in Yang et al., ICLR 2021, https://arxiv.org/abs/2101.06395. The combination is ours.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer = ReliabilityBalancer(16, num_classes=3).eval()
        >>> familiarity = Familiarity(16, num_references=100).fit(balancer(torch.rand(500, 16)))
        >>> strange = balancer(50 + torch.rand(4, 16))
        >>> familiarity(strange), familiarity.is_familiar(strange)
        (tensor([0., 0., 0., 0.]), tensor([False, False, False, False]))
    """

    SETTINGS: ClassVar = {"embedding_dim": int, "num_references": int, "false_alarm_rate": float}

    whitening: Tensor
    references: Tensor
    quantiles: Tensor

    def __init__(
        self,
        embedding_dim: int,
        *,
        num_references: int = 1000,
        false_alarm_rate: float = 0.05,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        checks.at_least("embedding_dim", embedding_dim, 1)
        checks.at_least("num_references", num_references, NEIGHBOURS)
        checks.open_share("false_alarm_rate", false_alarm_rate)
        self.embedding_dim = embedding_dim
        self.num_references = num_references
        self.false_alarm_rate = false_alarm_rate
        self.validate_args = validate_args
        self.register_buffer("whitening", torch.zeros(embedding_dim, embedding_dim))
        self.register_buffer("references", torch.zeros(num_references, embedding_dim))
        self.register_buffer("quantiles", torch.zeros(QUANTILES))

    def forward(self, output: BalancerOutput) -> Tensor:
        """Return the share of fitting samples that are at least as far away."""
        distance = self.distance(output)
        quantiles = self.quantiles.to(distance.dtype)
        return (quantiles >= distance.unsqueeze(-1)).to(distance.dtype).mean(-1)

    def is_familiar(self, output: BalancerOutput) -> Tensor:
        """Return where the familiarity is at least `false_alarm_rate`.

        Args:
            output: of B samples.

        Shape:
            - output: as in a call of the module; returns (B,) bool.

        Raises:
            RuntimeError: if it is not fitted.
            TypeError: if `output` is no :class:`BalancerOutput`.
            ValueError: on another embedding width or non-finite embeddings.
        """
        familiarity: Tensor = self(output)
        return familiarity >= self.false_alarm_rate

    def distance(self, output: BalancerOutput) -> Tensor:
        """Return the distance to the references, larger for stranger inputs.

        Args:
            output: of B samples.

        Shape:
            - output: as in a call of the module; returns (B,) floating >= 0.

        Raises:
            RuntimeError: if it is not fitted.
            TypeError: if `output` is no :class:`BalancerOutput`.
            ValueError: on another embedding width or non-finite embeddings.
        """
        self._check("output", output)
        is_checked = self.validate_args and checks.can_read_values()
        if is_checked and not bool(self.whitening[0, 0] > 0):  # a fitted one's diagonal is
            raise RuntimeError("`fit` must be called before the score is used")
        return reference_distance(self._points(output), self.references)

    @torch.no_grad()
    def fit(self, output: BalancerOutput, *, held_out: BalancerOutput | None = None) -> Self:
        """Fit whitening, references and quantiles.

        The references are spread evenly over the order of the samples. The quantiles are those of
        the distances of the other samples.

        Args:
            output: of training samples, in eval mode.
            held_out: of samples that were not trained on, to take the quantiles from instead. Then
                ``is_familiar`` rejects a share of `false_alarm_rate` of new samples of this kind,
                on average. None: from `output`.

        Shape:
            - output: of N >= M + 1 / `false_alarm_rate` samples, or of N >= M with held_out;
              held_out: of at least 1 / `false_alarm_rate` samples.

        Raises:
            TypeError: if an argument is no :class:`BalancerOutput`.
            ValueError: on too few samples, another embedding width, embeddings that are not finite,
                or too large or small for the module's dtype, or that do not vary within the
                predicted classes.
        """
        self._check("output", output)
        count, fewest = len(output.embedding), math.ceil(1.0 / self.false_alarm_rate)
        if held_out is None:
            needed, why = self.num_references + fewest, "num_references + 1 / false_alarm_rate"
        else:
            needed, why = self.num_references, "num_references"
            self._check("held_out", held_out)
            _check_count("held_out", len(held_out.embedding), fewest, "1 / false_alarm_rate")
        _check_count("output", count, needed, why)
        roots = signed_root(output.embedding).to(torch.float64)
        whitening = _whitening(roots, output.log_probs.argmax(-1)).to(self.whitening)
        if not bool((whitening.diagonal() > 0).all() & whitening.isfinite().all()):
            largest = float(output.embedding.abs().max())
            raise ValueError(
                f"`output.embedding` must be of a size whose whitening {whitening.dtype} can hold; "
                f"got values up to {largest:.1e}: scale the embedding, or convert the "
                "module by double()"
            )
        self.whitening.copy_(whitening)
        points = self._points(output)
        is_reference = torch.zeros(count, dtype=torch.bool, device=points.device)
        is_reference[torch.arange(self.num_references) * count // self.num_references] = True
        self.references.copy_(points[is_reference])
        others = points[~is_reference] if held_out is None else self._points(held_out)
        distances = [reference_distance(each, self.references) for each in others.split(BLOCK)]
        self.quantiles.copy_(_quantiles(torch.cat(distances)))
        return self

    def _points(self, output: BalancerOutput) -> Tensor:
        """The whitened roots of the embeddings."""
        roots = signed_root(output.embedding)
        with numerics.without_autocast(roots):
            return numerics.widen(roots, self.whitening) @ numerics.widen(self.whitening, roots)

    def _check(self, name: str, output: BalancerOutput) -> None:
        check_output(name, output)
        checks.width(f"{name}.embedding", output.embedding, self.embedding_dim)
        if self.validate_args:
            checks.finite(f"{name}.embedding", output.embedding)


def signed_root(values: Tensor) -> Tensor:
    """Take the square root of each magnitude, and keep the sign.

    Args:
        values: any numbers.

    Shape:
        - values: (...) floating; returns (...), float32 or wider.

    Raises:
        TypeError: if `values` is not a floating tensor.

    Example:
        >>> signed_root(torch.tensor([-4.0, 0.0, 9.0]))
        tensor([-2.,  0.,  3.])
    """
    checks.floating("values", values)
    wide = numerics.widen(values)
    return wide.sign() * wide.abs().sqrt()


def reference_distance(points: Tensor, references: Tensor) -> Tensor:
    """Average the distances to the three nearest references.

    Args:
        points: where to measure.
        references: what to measure from.

    Shape:
        - points: (B, D) floating; references: (M, D) floating, M >= 3; returns (B,) >= 0.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes, or fewer than three references.

    Example:
        >>> references = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
        >>> reference_distance(torch.tensor([[0.0], [-3.0]]), references)
        tensor([1., 4.])
    """
    checks.floating("points", points)
    checks.rank("points", points, "(B, D)", 2)
    checks.floating("references", references)
    checks.rank("references", references, "(M, D)", 2)
    checks.width("points", points, references.shape[-1])
    if len(references) < NEIGHBOURS:
        raise ValueError(
            f"`references` must have at least {NEIGHBOURS} rows; got {len(references)}"
        )
    wide, known = numerics.widen(points, references), numerics.widen(references, points)
    center = known.mean(0)  # distances do not change when both move; small coordinates cancel less
    # One mode for all sizes of batches, so that it exports.
    distances = torch.cdist(wide - center, known - center, compute_mode="use_mm_for_euclid_dist")
    return distances.topk(NEIGHBOURS, largest=False).values.mean(-1)


def _whitening(roots: Tensor, classes: Tensor) -> Tensor:
    """The transposed W of the roots (N, D), whose predicted classes are (N,)."""
    _, members, counts = classes.unique(return_inverse=True, return_counts=True)
    sums = roots.new_zeros(len(counts), roots.shape[-1]).index_add_(0, members, roots)
    around = roots - (sums / counts.unsqueeze(-1))[members]
    covariance = around.T @ around / len(around)
    variance = covariance.diagonal().mean()
    if not bool(variance > 0):
        raise ValueError(
            "`output.embedding` must vary within the predicted classes; got "
            f"{len(roots)} samples that do not"
        )
    identity = torch.eye(len(covariance), dtype=roots.dtype, device=roots.device)
    if not bool(covariance.isfinite().all()):
        return torch.full_like(covariance, torch.inf)
    lower = torch.linalg.cholesky(covariance + variance * identity)
    inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return inverse.T


def _quantiles(distances: Tensor) -> Tensor:
    """The 1/1000, 2/1000, ... 1 quantiles of (N,), each one of its values."""
    steps = torch.arange(1, QUANTILES + 1, device=distances.device)
    ranks = (steps * len(distances) + QUANTILES - 1) // QUANTILES  # rounded up
    return distances.sort().values[ranks - 1]


def _check_count(name: str, count: int, needed: int, why: str) -> None:
    if count < needed:
        raise ValueError(f"`{name}` must hold at least {needed} samples, {why}; got {count}")
