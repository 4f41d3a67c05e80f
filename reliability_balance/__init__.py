"""Reliability balancing for any classifier: corrected, confident predictions (ARBEx).

Wrap a model with :func:`wrap`, train it with :class:`RobustLoss`, and read the corrected
distribution from the :class:`BalancerOutput`. The equations are in
:mod:`reliability_balance.functional`, reference encoders in
:mod:`reliability_balance.backbones`.
"""

from reliability_balance.calibration import TemperatureScaling, calibrate
from reliability_balance.checkpoint import load, save
from reliability_balance.core import (
    AnchorLoss,
    BalancerOutput,
    CenterLoss,
    Recipe,
    ReliabilityBalancer,
    ReliabilityLoss,
    with_class_prior,
)
from reliability_balance.data import IndexedDataset
from reliability_balance.diagnosis import diagnose
from reliability_balance.labels import RobustLoss, fit_head, inspect_embeddings
from reliability_balance.version import __version__
from reliability_balance.wrapping import wrap

__all__ = [
    "AnchorLoss",
    "BalancerOutput",
    "CenterLoss",
    "IndexedDataset",
    "Recipe",
    "ReliabilityBalancer",
    "ReliabilityLoss",
    "RobustLoss",
    "TemperatureScaling",
    "__version__",
    "calibrate",
    "diagnose",
    "fit_head",
    "inspect_embeddings",
    "load",
    "save",
    "with_class_prior",
    "wrap",
]
