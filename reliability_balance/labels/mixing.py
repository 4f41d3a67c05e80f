"""Manifold mixup of embeddings and targets."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from reliability_balance import checks
from reliability_balance.core.attention import pool_tokens
from reliability_balance.core.balancer import ReliabilityBalancer
from reliability_balance.core.output import BalancerOutput, check_output
from reliability_balance.core.recipes import check_concentration


class Mixed(NamedTuple):
    """Outputs of the balancer for mixed embeddings, and the mixed targets (B, C)."""

    output: BalancerOutput
    targets: Tensor


class Partners(NamedTuple):
    """The sample that each one is mixed with, and its own weight in the mixture, each (B,)."""

    partner: Tensor
    weight: Tensor


@cache
def _weights(concentration: float, device: torch.device) -> Dirichlet:
    """Return the distribution of mixing weights; cached, since it is costly to create."""
    return Dirichlet(torch.full((2,), concentration, device=device), validate_args=False)


def mix(
    balancer: ReliabilityBalancer,
    output: BalancerOutput,
    targets: Tensor,
    *,
    concentration: float,
) -> Mixed:
    r"""Mix the embedding of each sample with that of a random partner and run the balancer again.

    .. math:: \tilde e_i = \lambda_i e_i + (1 - \lambda_i) e_j, \quad
        \tilde y_i = \lambda_i y_i + (1 - \lambda_i) y_j

    with j a random partner and lambda = max(x, 1 - x) for x drawn from Beta(a, a). Mixing reduces
    the memorization of wrong targets and overconfidence. Only the balancer runs a second time, not
    the encoder.

    Args:
        balancer: the balancer that gave `output`.
        output: its output for the batch. Its tokens or embeddings are mixed, and its logits if the
            balancer has no head. Where one of two samples has padding and the other a token, the
            mean token of the sample replaces the padding, so that pooled embeddings mix linearly.
        targets: class probabilities, such as those of :class:`labels.RefurbishedTargets`.
        concentration: a >= 0.01; 1 is uniform, small values mix little.

    Shape:
        - output: B samples; targets: (B, C) floating; returns :class:`Mixed`.

    Raises:
        TypeError: on a wrong dtype, or if `output` is not a :class:`BalancerOutput`.
        ValueError: on wrong shapes, or a concentration below 0.01.

    Differs from paper: not in it. Manifold mixup (Verma et al., 2019,
    https://arxiv.org/abs/1806.05236; mixup: Zhang et al., 2018, https://arxiv.org/abs/1710.09412)
    at the last hidden layer.

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> balancer = ReliabilityBalancer(16, num_classes=3)
        >>> mixed = mix(balancer, balancer(torch.randn(3, 16)), torch.eye(3), concentration=0.3)
        >>> mixed.output.corrected.shape, bool((mixed.targets.amax(-1) >= 0.5).all())
        (torch.Size([3, 3]), True)
    """
    check_concentration("concentration", concentration)
    check_output("output", output)
    checks.floating("targets", targets)
    embedding = output.embedding if output.tokens is None else output.tokens
    if targets.shape != (len(embedding), balancer.num_classes):
        raise ValueError(
            f"`targets` must have shape ({len(embedding)}, {balancer.num_classes}); "
            f"got {tuple(targets.shape)}"
        )
    partners = draw_partners(len(targets), concentration, embedding.device)
    return mix_with(partners, balancer, output, targets)


def draw_partners(count: int, concentration: float, device: torch.device) -> Partners:
    """Draw partners and weights of `count` samples, as :func:`mix`."""
    weight = _weights(concentration, device).sample((count,)).amax(-1)
    return Partners(torch.randperm(count, device=device), weight)


def mix_with(
    partners: Partners, balancer: ReliabilityBalancer, output: BalancerOutput, targets: Tensor
) -> Mixed:
    """Mix samples with given partners, as :func:`mix`."""
    embedding = output.embedding if output.tokens is None else output.tokens
    partner, larger = partners

    def mixed(rows: Tensor) -> Tensor:
        weight, other = (
            each.reshape(-1, *[1] * (rows.ndim - 1)) for each in (larger.to(rows.dtype), partner)
        )
        # Not rows[partner]: torch 2.11's inductor fails at indexing by randperm on a GPU.
        return rows.gather(0, other.expand_as(rows)).lerp(rows, weight)

    token_mask = output.token_mask
    if token_mask is not None:
        mean = pool_tokens(embedding, token_mask).unsqueeze(1)
        embedding = embedding.where(token_mask.unsqueeze(-1), mean)
        token_mask = token_mask | token_mask.take_along_dim(partner.unsqueeze(-1), 0)
    logits = mixed(output.logits) if balancer.head is None else None
    corrected: BalancerOutput = balancer(mixed(embedding), logits, token_mask=token_mask)
    return Mixed(corrected, mixed(targets))
