"""An estimate with a confidence interval."""

from typing import NamedTuple

from torch import Tensor


class Interval(NamedTuple):
    """An estimate and the limits of its confidence interval.

    Shape:
        - value, low, high: () or (C, C), probabilities. ``str()`` shows a scalar in percent.

    Example:
        >>> import torch
        >>> print(Interval(torch.tensor(0.36), torch.tensor(0.33), torch.tensor(0.38)))
        36 % [33, 38]
    """

    value: Tensor
    low: Tensor
    high: Tensor

    def __str__(self) -> str:
        if self.value.ndim:
            return repr(self)
        shares = [100 * float(each) for each in self]
        # Rates of a few percent need a decimal.
        digits = 0 if shares[0] >= 10 else 1
        value, low, high = (f"{each:.{digits}f}" for each in shares)
        return f"{value} % [{low}, {high}]"
