"""The encoder of all methods."""

from torch import nn

EMBEDDING_DIM = 128


def make_encoder(width: int) -> nn.Sequential:
    """Build the encoder for inputs of this width."""
    return nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, EMBEDDING_DIM), nn.ReLU())
