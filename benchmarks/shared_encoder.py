"""The encoder that all methods share."""

from torch import nn

EMBEDDING_DIM = 128


def make_encoder(width: int) -> nn.Sequential:
    """From inputs of this width to an embedding."""
    return nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, EMBEDDING_DIM), nn.ReLU())
