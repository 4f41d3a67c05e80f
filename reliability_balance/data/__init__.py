"""Data sets that give indices, samplers, and synthetic label noise."""

from reliability_balance.data.indexed import IndexedDataset
from reliability_balance.data.label_noise import pair_noise, symmetric_noise
from reliability_balance.data.sampling import DataRefinementSampler, limit_per_key, refine

__all__ = [
    "DataRefinementSampler",
    "IndexedDataset",
    "limit_per_key",
    "pair_noise",
    "refine",
    "symmetric_noise",
]
