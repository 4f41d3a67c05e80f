"""Bounds of the noise rate, from predictions of labels that the model was not trained on."""

import math

import torch
from torch import Tensor

from reliability_balance import checks
from reliability_balance import functional as RF
from reliability_balance.labels.interval import Interval

# Probability that the surest prediction is right.
SURE = 0.98
# Grid of the likelihood: noise rates, and curves by slope and offset. Samples of similar confidence
# are grouped.
NUM_RATES, NUM_SLOPES, NUM_OFFSETS, NUM_GROUPS = 200, 25, 11, 100
STEEPEST, HIGHEST = 20.0, 8.0  # in units of logits


@torch.no_grad()
def noise_rate_bounds(confidence: Tensor, agreement: Tensor, *, level: float = 0.95) -> Interval:
    r"""Bound the share of wrong labels by how often out-of-sample predictions agree with them.

    The more confident a prediction, the more often it agrees with the label, up to a ceiling that
    only wrong labels set. So the agreement of sample i with confidence c_i is modelled as

    .. math:: P(\hat y_i = y_i) = (1 - \eta) \, \sigma(a z_i + b), \quad
        z_i = \frac{s_i - \max_j s_j}{\mathrm{std}(s)}, \quad a \ge 0, \quad \sigma(b) \ge 0.98

    with scores s = logit(c): the surest prediction is right with a probability of 98 % or more. The
    value is the maximum-likelihood estimate of eta, the noise rate. The limits are:

    - low: the lower limit of eta's profile likelihood. It counts wrong labels among confident
      predictions, as noise gives that does not depend on the input.
    - high: the exact binomial upper limit of the share of disagreements, as if each were a wrong
      label. Where wrong labels fall on hard samples, they look like errors of the model.

    So the interval is wide if the model predicts poorly. It is too low if the model predicts the
    wrong labels: noise that is a function of the input can be learned like a class.

    Args:
        confidence: probability of the predicted class, from a model that was not trained on the
            sample's label.
        agreement: 1 where the label is the predicted class, else 0; for a soft label its
            probability of that class.
        level: confidence level of the interval, in (0, 1).

    Shape:
        - confidence: (M,) floating in [0, 1]; agreement: (M,) floating in [0, 1]; the fields of the
          interval are ().

    Raises:
        TypeError: on a wrong dtype.
        ValueError: on wrong shapes or values.

    Differs from paper: not in it. Psychometrics estimates the lapse rate of an observer in this way
    (Wichmann and Hill, Perception & Psychophysics 2001, https://doi.org/10.3758/BF03194544).

    Example:
        >>> confidence = torch.linspace(0.5, 0.999, 1000)
        >>> agreement = (torch.arange(1000) % 5 > 0).float()  # a fifth disagrees, also the surest
        >>> rate = noise_rate_bounds(confidence, agreement)
        >>> bool(rate.low < 0.2 < rate.high)
        True
    """
    for name, values in (("confidence", confidence), ("agreement", agreement)):
        checks.floating(name, values)
        checks.rank(name, values, "(M,)", 1)
        if len(values) and not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"`{name}` must lie in [0, 1]; got {values.min()} to {values.max()}")
    if confidence.shape != agreement.shape or len(agreement) == 0:
        raise ValueError(
            "`confidence` and `agreement` must have one entry for each of at least 1 sample; got "
            f"{len(confidence)} and {len(agreement)}"
        )
    checks.open_share("level", level)
    scores = torch.logit(confidence.double(), eps=1e-6)
    agreement = agreement.double()
    # Rates are closer together near 0.
    rates = (torch.arange(NUM_RATES, device=scores.device).double() / NUM_RATES) ** 1.5
    fits = _profile(rates, scores, agreement)
    best = int(fits.argmax())
    deviance = float(torch.special.ndtri(torch.tensor((1.0 + level) / 2.0).double())) ** 2
    disagreements = math.ceil(
        float((1.0 - agreement).sum()) - 1e-6
    )  # 1e-6: rounding of soft labels
    high = RF.error_rate_bound(disagreements, len(agreement), (1.0 - level) / 2.0)
    value = min(float(rates[best]), high)
    low = min(_crossing(rates, fits, float(fits[best]) - deviance / 2.0), value)
    return Interval(*(confidence.new_tensor(each) for each in (value, low, high)))


def _profile(rates: Tensor, scores: Tensor, agreement: Tensor) -> Tensor:
    """Return the log-likelihood (R,) at each noise rate, maximised over a grid of curves."""
    relative = (scores - scores.max()) / scores.std(correction=0).clamp_min(1e-6)
    groups = scores.argsort().tensor_split(min(len(scores), NUM_GROUPS))
    place = torch.stack([relative[group].mean() for group in groups])
    agreed = torch.stack([agreement[group].sum() for group in groups])
    disagreed = scores.new_tensor([len(group) for group in groups]) - agreed
    steps = torch.arange(NUM_SLOPES, device=scores.device).double() / (NUM_SLOPES - 1)
    slopes = STEEPEST * steps**3
    lowest = math.log(SURE / (1.0 - SURE))
    steps = torch.arange(NUM_OFFSETS, device=scores.device).double() / (NUM_OFFSETS - 1)
    offsets = lowest + HIGHEST * steps**2
    curves = (slopes[:, None, None] * place + offsets[:, None]).sigmoid().flatten(0, 1)
    tiny = torch.finfo(scores.dtype).eps

    def fit(rate: Tensor) -> Tensor:
        probs = ((1.0 - rate) * curves).clamp(tiny, 1.0 - tiny)
        return (probs.log() @ agreed + (-probs).log1p() @ disagreed).max()

    return torch.stack([fit(rate) for rate in rates])


def _crossing(rates: Tensor, fits: Tensor, threshold: float) -> float:
    """Return the smallest rate at which the fits reach the threshold, interpolated linearly."""
    first = int((fits >= threshold).nonzero()[0])
    if first == 0:
        return 0.0
    below, above = float(fits[first - 1]), float(fits[first])
    share = (threshold - below) / (above - below)
    return float(rates[first - 1].lerp(rates[first], share))
