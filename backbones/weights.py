"""Read weight files, and load all of the weights or none."""

import pickletools
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Keys under which training scripts store the weights beside epoch, optimizer and so on.
NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights")
OLD_PICKLES = 4  # magic number, protocol, system, content
LONGEST_NAME = 1000
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and torch.compile


class LoadReport(NamedTuple):
    """Result of loading a weight file.

    ``loaded`` are the names that were loaded, ``unused`` the names in the file that the model does
    not have (mostly a head), and ``untouched`` the model's names that the file may lack, and does.
    """

    loaded: tuple[str, ...]
    unused: tuple[str, ...]
    untouched: tuple[str, ...]


class _Inert:
    """Placeholder for an object that is not a tensor, in a file that holds more than weights."""

    def __new__(cls, *args: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file, on the CPU, by plain names.

    Nothing in the file is executed: it is read with ``weights_only``. Other pickled objects, which
    the published POSTER++ files hold, are replaced by placeholders.

    Args:
        path: a ``.safetensors`` file, or one written by ``torch.save`` that holds a state_dict,
            or a dictionary with one at ``state_dict``, ``model_state_dict``, ``model``, ``net``
            or ``weights``. Prefixes of DataParallel and ``torch.compile`` are removed.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: for a ``.safetensors`` file without the package safetensors.
        ValueError: if the file is not a weight file, or holds no tensors by name.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     torch.save({"epoch": 3, "state_dict": {"module.bias": torch.ones(2)}}, file.name)
        ...     read_weights(file.name)
        {'bias': tensor([1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing weight file; got {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    weights = _find_weights(content)
    if not weights:
        raise ValueError(
            f"`path` must hold tensors by name, alone or at one of {', '.join(NESTED_KEYS)}; "
            f"got {_describe(content)} in {path}"
        )
    return {_plain_name(name): tensor for name, tensor in weights.items()}


@torch.no_grad()
def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str | Path,
    may_lack: Collection[str] = (),
) -> LoadReport:
    """Copy weights into a module by name, if all of them match.

    Args:
        module: the module; it is unchanged if anything does not match.
        weights: tensors by name.
        source: their origin, for messages.
        may_lack: names or prefixes that may be missing from the weights. Batch norm counters, which
            old files lack, are always included.

    Raises:
        ValueError: if weights are missing or have other shapes; the message names them.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> weights = {**nn.Linear(2, 1).state_dict(), "head.bias": torch.ones(3)}
        >>> load_weights(layer, weights, source="example").unused
        ('head.bias',)
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    needed = [name for name in missing if not _may_lack(name, may_lack)]
    misshapen = [
        f"{name} {tuple(weights[name].shape)} in place of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems = []
    if needed:
        problems.append(f"missing: {_shorten(needed)}")
    if misshapen:
        problems.append(f"of another shape: {_shorten(misshapen)}")
    if problems:
        raise ValueError(
            f"{source} must have the weights of {type(module).__name__}, and nothing was loaded; "
            + "; ".join(problems)
        )
    loaded = [name for name in own if name in weights]
    module.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    unused = [name for name in weights if name not in own]
    return LoadReport(tuple(loaded), tuple(unused), tuple(missing))


def check_sums(path: Path) -> None:
    """Verify the checksums of a file from ``torch.save``, which ``torch.load`` does not.

    ``torch.save`` does not compress. An archive that is compressed, or whose parts share bytes,
    could unpack to any size and is rejected before it is read.

    Raises:
        ValueError: if a part of the archive is compressed, or has changed since it was written. Old
            files, which are not archives, pass.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            size = sum(part.file_size for part in parts)
            if size > path.stat().st_size or any(part.compress_type for part in parts):
                raise ValueError(
                    f"a compressed archive, which unpacks to {size} bytes and which torch.save "
                    "does not write"
                )
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} has changed since it was written")


def _read_torch(path: Path) -> Any:
    try:
        check_sums(path)
        with torch.serialization.safe_globals(_inert_globals(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`path` must be a weight file that torch.save wrote; got {path}: {reason}"
        ) from error


def _inert_globals(path: Path) -> list[Any]:
    """Map each class that ``weights_only`` would refuse to the placeholder."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # not a zip archive: an old file with weights only, or not a weight file
        _refuse_long_names(path)
        return []
    return [(_Inert, name) for name in names]


def _refuse_long_names(path: Path) -> None:
    """Reject very long class names: torch would search its own error message for minutes."""
    with path.open("rb") as file:
        for _ in range(OLD_PICKLES):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL" and len(str(argument)) > LONGEST_NAME:
                    raise ValueError(f"the name of a class has {len(str(argument))} characters")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"reading {path.name} needs safetensors: pip install '.[timm]' in the clone"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"`path` must be a safetensors file; got {path}: {error}") from error


def _find_weights(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED_KEYS:
        if isinstance(content.get(key), Mapping):
            return _find_weights(content[key])
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _plain_name(name: str) -> str:
    while name.startswith(WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _may_lack(name: str, allowed: Collection[str]) -> bool:
    return name.endswith("num_batches_tracked") or name.startswith(tuple(allowed))


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with {_shorten([str(key) for key in content]) or 'nothing'}"
    return type(content).__name__


def _shorten(names: list[str], limit: int = 8) -> str:
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
