"""Data sets that give indices, ids of samples, samplers, and synthetic label noise.

Both kinds of noise draw exactly ``round(rate * N)`` samples without replacement and always change
their class, so the actual rate is the requested one to within half a sample. (Some papers draw from
all C classes, which gives an actual rate of rate * (C - 1) / C.)
"""

from reliability_balance.data.indexed import IndexedDataset
from reliability_balance.data.label_noise import pair_noise, symmetric_noise
from reliability_balance.data.sample_ids import SampleIds
from reliability_balance.data.sampling import DataRefinementSampler, limit_per_key, refine

__all__ = [
    "DataRefinementSampler",
    "IndexedDataset",
    "SampleIds",
    "limit_per_key",
    "pair_noise",
    "refine",
    "symmetric_noise",
]
