"""Estimate class frequencies from predictions on unlabelled data."""

import torch
from torch import Tensor

from reliability_balance import checks, numerics
from reliability_balance.core.class_prior import log_frequencies

MAX_STEPS = 10_000
TOLERANCE = 1e-3  # nats of the log-likelihood of all samples together
SMALLEST = 0.5  # samples of a class


@torch.no_grad()
def estimate_class_prior(log_probs: Tensor, *, source_prior: Tensor | None = None) -> Tensor:
    r"""Estimate the class frequencies of unlabelled data by maximum likelihood.

    .. math:: \pi = \arg\max_\pi \sum_n \log \sum_c \pi_c \frac{p_c(x_n)}{\rho_c}

    where rho are the class frequencies that the predictions assume. The objective is concave. EM
    (Saerens et al., 2002) starts at rho, and stops once the log-likelihood is provably within 0.001
    nats of its maximum: the gap is at most N (max_c g_c - 1), where N counts samples and g_c is the
    factor by which a step changes frequency c. The result is for :func:`with_class_prior`.

    The estimate relies on two assumptions:
        - Only the class frequencies differ from the training data (label shift): the inputs of each
          class look the same, and labels mean the same.
        - The predictions are calibrated for rho. Overconfident predictions count errors as samples
          of the wrong class; underconfident ones overstate the shift. A single temperature does not
          remove class biases, and can make the estimate worse: prefer :class:`VectorScaling` if
          there are held-out samples of every class.

    Wrong training labels are no label shift: the model predicts what it learned from them. With
    FER2013's labels, about half of the gain of the true frequencies is left
    (``python -m benchmarks label_shift``). Unlabelled data cannot show that an assumption fails.

    Args:
        log_probs: log-probabilities of unlabelled samples, which should be drawn like the data that
            the model is used on.
        source_prior: rho, > 0; counts will do. None: evenly frequent, as :class:`RobustLoss` trains
            for.

    Shape:
        - log_probs: (N, C) floating, N >= 1; source_prior: (C,); returns (C,), positive and summing
          to 1. No class gets less than half a sample, so that logarithms stay finite.

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Warns:
        UserWarning: if EM does not converge.

    Reference: Saerens, Latinne and Decaestecker, Adjusting the Outputs of a Classifier to New a
        Priori Probabilities, Neural Computation 2002, https://doi.org/10.1162/089976602753284446.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1]] * 66 + [[0.1, 0.9]] * 34).log()
        >>> estimate_class_prior(log_probs)  # (0.66 - 0.1) / (0.9 - 0.1) of class 0
        tensor([0.7000, 0.3000])
    """
    checks.distributions("log_probs", log_probs)
    checks.rank("log_probs", log_probs, "(N, C)", 2)
    checks.scores("log_probs", log_probs)
    count, num_classes = log_probs.shape
    if count == 0:
        raise ValueError("`log_probs` must hold at least 1 sample; got 0")
    checks.probability_values("`log_probs` exponentiated", numerics.widen(log_probs).exp())
    prior = log_probs.new_full((num_classes,), 1 / num_classes, dtype=torch.float64)
    if source_prior is not None:
        checks.class_prior(source_prior, num_classes, "source_prior")
        checks.class_prior_values(source_prior, "source_prior")
        prior = log_frequencies(source_prior).to(prior).exp()
    log_ratios = log_probs.to(prior) - prior.log()
    # A factor of a sample's own changes nothing.
    ratios = (log_ratios - log_ratios.amax(-1, keepdim=True)).exp()
    gap = torch.inf
    for _ in range(MAX_STEPS):
        factors = ratios.T @ (ratios @ prior).reciprocal() / count
        gap = count * (float(factors.max()) - 1)
        if gap <= TOLERANCE:
            break
        prior = prior * factors
    else:
        checks.warn(
            f"EM did not converge in {MAX_STEPS} steps: the log-likelihood of `log_probs` may be "
            f"{gap:.2g} nats below its maximum"
        )
    prior = prior.clamp_min(SMALLEST / count)
    return (prior / prior.sum()).to(numerics.widen(log_probs).dtype)
