"""A model, and what belongs to it, in one file."""

from reliability_balance.checkpoint.saving import Checkpoint, describe, load, save

__all__ = [
    "Checkpoint",
    "describe",
    "load",
    "save",
]
