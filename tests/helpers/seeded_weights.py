"""Weights and inputs that depend on a seed and a name alone, so that they are the same anywhere."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def uniform(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """Draw float32 values in [-1, 1)."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy((2 * generator.random(shape) - 1).astype(np.float32))


@torch.no_grad()
def seed_weights(module: nn.Module, seed: int) -> nn.Module:
    """Overwrite every floating parameter and buffer with values that let all parts matter."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = uniform(seed, name, tuple(tensor.shape))
        if tensor.ndim > 1 and "token" not in name and "pos_embed" not in name:
            values *= (3 / tensor[0].numel()) ** 0.5
        elif name.endswith(("running_var", "norm.weight", "gamma1", "gamma2")):
            values = 1 + 0.2 * values
        else:
            values = 0.2 * values + (0.5 if name.endswith(".weight") else 0)
        tensor.copy_(values)
    return module
