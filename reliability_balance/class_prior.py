"""Class frequencies: answers for evenly frequent classes, and for classes as frequent as told."""

import torch
from torch import Tensor

from reliability_balance import _checks
from reliability_balance import functional as RF
from reliability_balance.output import BalancerOutput, complete_output


def with_class_prior(
    output: BalancerOutput, class_prior: Tensor, *, validate_args: bool = True
) -> BalancerOutput:
    r"""Turn answers for evenly frequent classes into answers where classes have these frequencies.

    .. math:: p'_c = \frac{p_c \pi_c}{\sum_k p_k \pi_k}

    for the corrected distribution and for each branch; the confidences are those of the new ones.

    Args:
        output: of a model that answers for even classes, as one does that was built with
            `class_prior`.
        class_prior: pi, the frequencies, > 0; counts will do.
        validate_args: whether to check the frequencies' values, which waits for the device.

    Shape:
        - output: of B samples; class_prior: (C,); returns an output of B samples.

    Raises:
        TypeError: if `class_prior` is not a tensor.
        ValueError: on a wrong shape, or a frequency that is not above 0.

    Differs from paper: not in it. Bayes' rule, as in Saerens et al., 2002
    (https://doi.org/10.1162/089976602753284446).

    Example:
        >>> from reliability_balance import ReliabilityBalancer
        >>> even = ReliabilityBalancer(16, num_classes=2).eval()(torch.zeros(1, 16))
        >>> uneven = with_class_prior(even, torch.tensor([999, 1]))
        >>> bool(uneven.corrected[0, 0] > even.corrected[0, 0])
        True
    """
    num_classes = output.corrected.shape[-1]
    prior = normalized_prior(class_prior, num_classes, validate_args=validate_args)
    log_prior = prior.to(output.corrected).log()

    def weigh(log_probs: Tensor | None) -> Tensor | None:
        return None if log_probs is None else (log_probs + log_prior).log_softmax(-1)

    correction = output.correction
    if correction is not None:
        correction = correction.clamp_min(torch.finfo(correction.dtype).tiny).log()
    return complete_output(
        output.logits + log_prior,
        weigh(output.log_probs),
        anchor_log_probs=weigh(output.anchor_log_probs),
        attentive_log_probs=weigh(output.attentive_log_probs),
        correction_log_probs=weigh(correction),
        embedding=output.embedding,
        distances=output.distances,
        anchors=output.anchors,
    )


def normalized_prior(class_prior: Tensor, num_classes: int, *, validate_args: bool) -> Tensor:
    """Frequencies (C,) as shares of one, float32 or wider."""
    if not isinstance(class_prior, Tensor):
        raise TypeError(f"`class_prior` must be a torch.Tensor; got {type(class_prior).__name__}")
    if class_prior.shape != (num_classes,):
        raise ValueError(
            f"`class_prior` must have shape (C,) = ({num_classes},); got {tuple(class_prior.shape)}"
        )
    readable = validate_args and not class_prior.is_meta and _checks.can_read_values()
    if readable and not bool(((class_prior > 0) & class_prior.isfinite()).all()):
        raise ValueError(f"`class_prior` must be finite and above 0; got {class_prior.tolist()}")
    prior = RF.widen(class_prior if class_prior.is_floating_point() else class_prior.float())
    return prior / prior.sum()
