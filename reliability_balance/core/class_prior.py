"""Class priors: adapt predictions for balanced classes to other class frequencies."""

import torch
from torch import Tensor

from reliability_balance import checks, numerics
from reliability_balance.core.output import BalancerOutput


def with_class_prior(
    output: BalancerOutput, class_prior: Tensor, *, validate_args: bool = True
) -> BalancerOutput:
    r"""Adapt predictions for a uniform class prior to the given one.

    .. math:: p'_c = \frac{p_c \pi_c}{\sum_k p_k \pi_k}

    is applied to the corrected distribution and to each branch. Confidences follow.

    Args:
        output: predictions for a uniform class prior, as of a model trained with
            :class:`RobustLoss`.
        class_prior: pi, class frequencies or counts, > 0. Give a class that does not occur a small
            count, such as 0.5.
        validate_args: check the values of `class_prior`, which synchronizes with the device.

    Shape:
        - output: of B samples; class_prior: (C,); returns an output of B samples.

    Raises:
        TypeError: if `class_prior` is not a tensor.
        ValueError: on a wrong shape, or a frequency that is not > 0.

    Differs from paper: not in it. Bayes' rule, as in Saerens et al., 2002
    (https://doi.org/10.1162/089976602753284446).

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> even = ReliabilityBalancer(16, num_classes=2).eval()(torch.zeros(1, 16))
        >>> uneven = with_class_prior(even, torch.tensor([999, 1]))
        >>> bool(uneven.corrected[0, 0] > even.corrected[0, 0])
        True
    """
    checks.class_prior(class_prior, output.log_probs.shape[-1])
    if validate_args:
        checks.class_prior_values(class_prior)
    log_prior = log_frequencies(class_prior).to(numerics.widen(output.logits))

    def weigh(log_probs: Tensor) -> Tensor:
        return (log_probs + log_prior).log_softmax(-1)

    def weigh_branch(log_probs: Tensor | None) -> Tensor | None:
        return None if log_probs is None else weigh(log_probs)

    return output._replace(
        log_probs=weigh(output.log_probs),
        logits=output.logits + log_prior,
        anchor_log_probs=weigh_branch(output.anchor_log_probs),
        attentive_log_probs=weigh_branch(output.attentive_log_probs),
        correction_log_probs=weigh_branch(output.correction_log_probs),
    )


def log_frequencies(class_prior: Tensor) -> Tensor:
    """Normalise frequencies or counts and return their logarithms (C,), float32 or wider."""
    # Counts may be integers, and the sum of large ones could overflow.
    wide = class_prior.to(torch.promote_types(class_prior.dtype, torch.float32))
    return (wide / wide.max()).log().log_softmax(-1)
