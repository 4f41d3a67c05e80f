"""Reliability balancing for any classifier: corrected, confident predictions (ARBEx).

Wrap a model with :func:`wrap`, train it with :class:`RobustLoss`, and read the corrected
distribution from the :class:`BalancerOutput`. The equations are in
:mod:`reliability_balance.functional`, reference encoders in
:mod:`reliability_balance.backbones`.
"""

from reliability_balance._version import __version__
from reliability_balance.balancer import ReliabilityBalancer
from reliability_balance.indexed import IndexedDataset
from reliability_balance.losses import AnchorLoss, CenterLoss, ReliabilityLoss
from reliability_balance.output import BalancerOutput
from reliability_balance.robust_loss import RobustLoss
from reliability_balance.wrapping import wrap

__all__ = [
    "AnchorLoss",
    "BalancerOutput",
    "CenterLoss",
    "IndexedDataset",
    "ReliabilityBalancer",
    "ReliabilityLoss",
    "RobustLoss",
    "__version__",
    "wrap",
]
