"""Write tensors and a JSON configuration to one file atomically, and read untrusted files.

The file is safetensors, which holds numbers and text but no code. Its header holds the
configuration and a digest of configuration and tensors, which detects a single flipped bit. It is
not a signature: ``schema.py`` checks the rest.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reliability_balance.files import strict_json, write_atomically

CONFIG_KEY, DIGEST_KEY = "reliability_balance", "sha256"
WITHOUT_DIGEST = 1  # format version


def write(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write both to one file, atomically."""
    save = _safetensors("safetensors.torch").save
    # Tensors that share memory, such as tied weights, are each written in full.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(config, allow_nan=False)
    content = save(plain, {CONFIG_KEY: text, DIGEST_KEY: _digest(text, plain)})
    write_atomically(path, content)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the configuration that :func:`write` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package safetensors.
        ValueError: if the file is of another kind or damaged; the message names what was found.
    """
    if not path.exists():
        raise FileNotFoundError(f"`path` must be an existing checkpoint; got {path}")
    if not path.is_file():
        kind = "the folder " if path.is_dir() else ""
        raise ValueError(f"`path` must be a regular file; got {kind}{path}")
    safetensors = _safetensors("safetensors")
    load = _safetensors("safetensors.torch").load
    # Read once: another process may replace the file meanwhile.
    content = path.read_bytes()
    try:
        tensors = load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"`path` must be a whole checkpoint; got {_describe_foreign(content)}: {path}: {error}"
        ) from error
    except Exception as error:  # dtypes and sizes that torch does not support
        raise ValueError(
            f"`path` must hold tensors that torch supports; got {path}: {error!r:.200}"
        ) from error
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    if CONFIG_KEY not in metadata:
        raise ValueError(
            "`path` must be a checkpoint that `save` wrote; got a safetensors file of another "
            f"origin: {path}. `backbones.weights.read_weights` reads plain weights"
        )
    text = metadata[CONFIG_KEY]
    try:
        config = strict_json(text)
        has_digest = config["format_version"] != WITHOUT_DIGEST
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"`path` must have a readable configuration; got {path}: {error!r}"
        ) from error
    if has_digest and metadata.get(DIGEST_KEY) != _digest(text, tensors):
        raise ValueError(
            "`path` must be as `save` wrote it; got a file that was damaged or changed, since its "
            f"digest differs: {path}"
        )
    return tensors, config


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return SHA-256 of the configuration and of each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _safetensors(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "a checkpoint needs safetensors: pip install '.[checkpoint]' in the clone"
        ) from error


def _describe_foreign(content: bytes) -> str:
    """Describe a file that is not safetensors, by its first bytes."""
    start = content[:4]
    is_pickle = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if start == b"PK\x03\x04" or is_pickle:
        return "a pickle, as torch.save writes, which is not opened since it can run any code"
    return "a file that is damaged, cut short, or not safetensors"
