"""A model, and what belongs to it, in one file.

The file is safetensors with JSON in its header; nothing in it is executed. It needs the extra
``checkpoint``.

Its header also holds a digest, which detects damage. A digest is not a signature: anyone who writes
a file can write its digest. So the whole content is checked before anything is built from it: names
and types of settings, sizes against the tensors, finite weights, class names. A file that passes is
a valid model, but not necessarily the one that was sent to you. Where that matters, compare a
checksum from a trusted channel.
"""

from reliability_balance.checkpoint.saving import Checkpoint, describe, load, save

__all__ = [
    "Checkpoint",
    "describe",
    "load",
    "save",
]
