"""Bounds of the noise rate, from predictions of labels that the model was not trained on."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from reliability_balance import checks
from reliability_balance.binomial import error_rate_bound
from reliability_balance.labels.interval import Interval

# Probability that the surest prediction is right: for the estimate, and for the lower limit.
SURE, SURE_AT_LEAST = 0.99, 0.95
# Noise rates at which the likelihood is computed, and groups of samples of similar confidence.
NUM_RATES, NUM_GROUPS = 100, 100
# Grid of curves: slopes and offsets in logits, denser near 0. Finer grids around the best follow.
NUM_SLOPES, NUM_OFFSETS, STEEPEST, HIGHEST = 36, 24, 20.0, 8.0
ROUNDS, SIDE = 5, 5


@torch.no_grad()
def noise_rate_bounds(confidence: Tensor, agreement: Tensor, *, level: float = 0.95) -> Interval:
    r"""Bound the share of wrong labels by how often out-of-sample predictions agree with them.

    The more confident a prediction, the more often it agrees with the label, up to a ceiling that
    only wrong labels set. So the agreement of sample i with confidence c_i is modelled as

    .. math:: P(\hat y_i = y_i) = (1 - \eta) \, \sigma(a z_i + b), \quad
        z_i = \frac{s_i - \max_j s_j}{\mathrm{std}(s)}, \quad a \ge 0, \quad \sigma(b) \ge g

    with scores s = logit(c), so that the surest prediction is right with probability g or more. The
    value is the maximum-likelihood estimate of eta, the noise rate, for g = 0.99. The limits are:

    - low: the lower limit of eta's profile likelihood for g = 0.95. It counts wrong labels among
      confident predictions, as noise gives that does not depend on the input.
    - high: the exact binomial upper limit, as if each of the M d disagreements were a wrong label:
      where wrong labels fall on hard samples, they look like errors of the model. Labels that the
      model agrees with, but doubts, are counted as wrong at the same rate: their doubts 1 - c times
      d are added.

    So the interval is wide if the model predicts poorly. It may end too low if the model predicts
    wrong labels with confidence: noise that is a function of the input can be learned like a class.

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
    value = float(rates[int(_profile(rates, scores, agreement, SURE).argmax())])
    fits = _profile(rates, scores, agreement, SURE_AT_LEAST)
    deviance = float(torch.special.ndtri(torch.tensor((1.0 + level) / 2.0).double())) ** 2
    low = _crossing(rates, fits, float(fits.max()) - deviance / 2.0)
    disagreements = float((1.0 - agreement).sum())
    doubted = float((agreement * (1.0 - confidence.double())).mean())
    wrong = min(
        len(agreement), math.ceil(disagreements * (1.0 + doubted) - 1e-6)
    )  # rounding errors
    high = error_rate_bound(wrong, len(agreement), (1.0 - level) / 2.0)
    value = min(value, high)
    low = min(low, value)
    return Interval(*(confidence.new_tensor(each) for each in (value, low, high)))


def _profile(rates: Tensor, scores: Tensor, agreement: Tensor, sure: float) -> Tensor:
    """Return the log-likelihood (R,) at each noise rate, maximised over slope and offset."""
    relative = (scores - scores.max()) / scores.std(correction=0).clamp_min(1e-6)
    groups = scores.argsort().tensor_split(min(len(scores), NUM_GROUPS))
    place = torch.stack([relative[group].mean() for group in groups])
    agreed = torch.stack([agreement[group].sum() for group in groups])
    disagreed = scores.new_tensor([len(group) for group in groups]) - agreed
    grid = torch.cartesian_prod(
        STEEPEST * torch.linspace(0.0, 1.0, NUM_SLOPES).to(scores) ** 3,
        HIGHEST * torch.linspace(0.0, 1.0, NUM_OFFSETS).to(scores) ** 2,
    )
    spacing = grid.new_tensor([STEEPEST / NUM_SLOPES, HIGHEST / NUM_OFFSETS])
    sides = torch.linspace(-1.0, 1.0, SIDE).to(scores)
    around = torch.cartesian_prod(sides, sides)
    tiny = torch.finfo(scores.dtype).eps
    # Both parameters are at least 0: the slope, and the offset above that of the surest prediction.
    lowest = math.log(sure / (1.0 - sure))

    def log_curves(tried: Tensor) -> Tensor:
        return F.logsigmoid(tried[:, :1] * place + tried[:, 1:] + lowest)

    of_grid = log_curves(grid)
    agreed_on_grid = of_grid @ agreed

    def search(rate: Tensor) -> Tensor:
        """Return the best log-likelihood at one noise rate."""
        log_ceiling = torch.log1p(-rate)

        def disagreeing(curves: Tensor) -> Tensor:
            return (-(curves + log_ceiling).exp()).clamp_min(tiny - 1.0).log1p() @ disagreed

        fits = agreed_on_grid + disagreeing(of_grid)
        best, width = grid[fits.argmax()], spacing
        for _ in range(ROUNDS):
            tried = (best + width * around).clamp_min(0.0)
            curves = log_curves(tried)
            fits = curves @ agreed + disagreeing(curves)
            best, width = tried[fits.argmax()], width / 2.0
        return fits.max() + log_ceiling * agreed.sum()

    return torch.stack([search(rate) for rate in rates])


def _crossing(rates: Tensor, fits: Tensor, threshold: float) -> float:
    """Return the smallest rate at which the fits reach the threshold, interpolated linearly."""
    first = int((fits >= threshold).nonzero()[0])
    if first == 0:
        return 0.0
    below, above = float(fits[first - 1]), float(fits[first])
    share = (threshold - below) / (above - below)
    return float(rates[first - 1].lerp(rates[first], share))
