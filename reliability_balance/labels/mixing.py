"""Train between the samples: blend embeddings and their targets."""

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
    """What the balancer says of blended embeddings, and their blended targets (B, C)."""

    output: BalancerOutput
    targets: Tensor


@cache
def _pairs(concentration: float, device: torch.device) -> Dirichlet:
    """Shares of two that sum to one; made once, since that costs more than a draw."""
    return Dirichlet(torch.full((2,), concentration, device=device), validate_args=False)


def mix(
    balancer: ReliabilityBalancer,
    output: BalancerOutput,
    targets: Tensor,
    *,
    concentration: float,
) -> Mixed:
    r"""Blend what the balancer saw of each sample of a batch with another sample, and correct that.

    .. math:: \tilde e_i = \lambda_i e_i + (1 - \lambda_i) e_j, \quad
        \tilde y_i = \lambda_i y_i + (1 - \lambda_i) y_j

    with j a random partner and lambda the larger part of a draw from Beta(a, a). A network that
    must answer linearly between samples learns wrong targets less well and is less sure of itself.
    Only the heads run a second time; the encoder does not.

    Args:
        balancer: corrects the blends.
        output: its own of the batch, as it gave it: its tokens or embeddings are blended, and its
            logits where they come from elsewhere. Padding of a sample beside a token of its partner
            counts as the sample's mean token, so that means blend like vectors.
        targets: class probabilities, such as :class:`targets.RefurbishedTargets` gives.
        concentration: a >= 0.01; 1 draws evenly, small values blend little.

    Shape:
        - output: of B samples; targets: (B, C) floating; returns :class:`Mixed`.

    Raises:
        TypeError: on a wrong dtype, or if `output` is no :class:`BalancerOutput`.
        ValueError: on wrong shapes, or a concentration below 0.01.

    Differs from paper: not in it. Mixup (Zhang et al., 2018, https://arxiv.org/abs/1710.09412) of
    the last hidden layer (Verma et al., 2019, https://arxiv.org/abs/1806.05236).

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
    share = _pairs(concentration, embedding.device).sample((len(targets),)).amax(-1)
    partner = torch.randperm(len(targets), device=embedding.device)

    def blend(rows: Tensor) -> Tensor:
        weight, other = (
            each.reshape(-1, *[1] * (rows.ndim - 1)) for each in (share.to(rows.dtype), partner)
        )
        # Not rows[partner]: torch 2.11's inductor fails at indexing by randperm on a GPU.
        return rows.take_along_dim(other, 0).lerp(rows, weight)

    token_mask = output.token_mask
    if token_mask is not None:
        mean = pool_tokens(embedding, token_mask).unsqueeze(1)
        embedding = embedding.where(token_mask.unsqueeze(-1), mean)
        token_mask = token_mask | token_mask.take_along_dim(partner.unsqueeze(-1), 0)
    logits = blend(output.logits) if balancer.head is None else None
    blended: BalancerOutput = balancer(blend(embedding), logits, token_mask=token_mask)
    return Mixed(blended, blend(targets))
