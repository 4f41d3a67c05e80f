"""Save and load a trained model: weights, settings, class names, preprocessing, calibration."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reliability_balance.calibration.calibrated_model import CalibratedModel
from reliability_balance.checkpoint import rebuilding, schema, tensor_file
from reliability_balance.checkpoint.formats import FORMAT_VERSION, migrate
from reliability_balance.labels.robust_loss import RobustLoss
from reliability_balance.version import __version__

MODEL = "model"


class Checkpoint(NamedTuple):
    """Content of a checkpoint, from :func:`load`: the model and what was saved with it."""

    model: nn.Module
    class_names: tuple[str, ...] | None
    preprocessing: dict[str, Any] | None
    extras: dict[str, nn.Module]
    versions: dict[str, str]


def save(
    path: str | Path,
    model: nn.Module,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    extras: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write a model and its extras to one file, atomically.

    An existing file stays intact until the new one is on the disk, even if the process is killed.
    For permissions, links and concurrent writers see :mod:`reliability_balance.files`.

    Args:
        path: the file, whose folder must exist.
        model: a balancer, a wrapped classifier, or any module. A compiled or parallel model is
            saved without that wrapper. Of a :class:`calibration.CalibratedModel`, save the
            ``model``, with its ``calibrator`` among `extras`.
        class_names: C names, in the order of the classes.
        preprocessing: what inputs need, in any form that JSON can hold; tuples come back as lists.
        extras: modules of this package that belong to the model, by any names: scalings,
            prediction sets, :class:`calibration.Abstention`, :class:`calibration.Familiarity`,
            :class:`calibration.SelectionScore`, :class:`labels.RefurbishedTargets`, balancers.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ImportError: without the package safetensors.
        OSError: if the file cannot be written, as on a full disk; the old one stays.
        TypeError: if `model` is not a module or is a :class:`calibration.CalibratedModel`, its
            state is not dense tensors, or settings or `preprocessing` do not fit JSON.
        ValueError: if class names repeat or are not C, an extra cannot be rebuilt, weights or
            fitted values are not finite, or `path` is not a regular file, such as a folder.

    Example:
        >>> import tempfile
        >>> from reliability_balance import ReliabilityBalancer
        >>> from reliability_balance.calibration import TemperatureScaling
        >>> balancer = ReliabilityBalancer(16, num_classes=2).eval()
        >>> output = balancer(torch.randn(50, 16))
        >>> scaling = TemperatureScaling().fit(output.log_probs, torch.arange(50) % 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/model.safetensors"
        ...     save(path, balancer, class_names=["cat", "dog"], extras={"scaling": scaling})
        ...     found = load(path)
        >>> found.class_names, found.extras["scaling"].temperature == scaling.temperature
        (('cat', 'dog'), tensor(True))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}")
    model = _without_shell(model)
    if isinstance(model, CalibratedModel):
        raise TypeError(
            "`model` must be without its calibrator; got CalibratedModel: save calibrated.model, "
            "with extras={'calibrator': calibrated.calibrator}"
        )
    modules = {MODEL: model, **_check_extras(extras or {})}
    parts = {role: rebuilding.parts_of(module) for role, module in modules.items()}
    for role, settings in parts.items():
        _check_json(f"the settings of `{role}`", settings)
    tensors = {
        f"{role}.{name}": tensor
        for role, module in modules.items()
        for name, tensor in _state(role, module).items()
    }
    config = {
        "format_version": FORMAT_VERSION,
        "modules": {
            role: {"class": type(module).__name__, "parts": parts[role]}
            for role, module in modules.items()
        },
        "class_names": _check_names(class_names, parts[MODEL]),
        "preprocessing": _check_json("`preprocessing`", preprocessing),
        "versions": {
            "reliability_balance": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    for role, module in modules.items():
        rebuilding.check_weights(role, module, _state(role, module))
    problem = schema.problem_of(tensors, config)
    if problem is not None:
        raise ValueError(f"`model` and `extras` must be loadable; got {problem}")
    tensor_file.write(Path(path), tensors, config)


def load(path: str | Path, model: nn.Module | None = None) -> Checkpoint:
    """Load a checkpoint that :func:`save` wrote.

    Args:
        path: the file.
        model: model to load the weights into, on any device; it is unchanged if anything does not
            match. For a wrapped classifier the plain network is enough: it is wrapped like the
            saved one. None: a new :class:`ReliabilityBalancer`, if the saved model is one without
            layers of your own.

    Returns:
        The given model, its wrapper, or a new model on the CPU; all in eval mode. A given wrapper
        is kept if its settings are those of the saved one, else replaced by a new one. New parts
        have ``validate_args=True``, which is not saved: set the attribute to change it.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package safetensors.
        ValueError: if the file is of another kind, damaged or of a newer format, or if its sizes,
            dtypes or settings differ from the model's; the message names them.

    Example:
        >>> import tempfile
        >>> from reliability_balance import wrap
        >>> def build():
        ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.safetensors", wrap(build(), attention="off"))
        ...     model = load(f"{folder}/model.safetensors", build()).model
        >>> type(model).__name__, model.balancer.attention, model.training
        ('WrappedClassifier', None, False)
    """
    tensors, config = migrate(path, *tensor_file.read(Path(path)))
    states = {role: rebuilding.state_within(tensors, role) for role in config["modules"]}
    built: dict[str, nn.Module] = {}
    for role, described in config["modules"].items():
        given = model if role == MODEL else None
        try:
            module = rebuilding.build(described["parts"]) if given is None else given
        except ValueError as error:
            raise ValueError(f"`path` must hold settings that fit; got {path}: {error}") from error
        is_new_model = role == MODEL and given is None
        if module is None or (is_new_model and not rebuilding.fits(module, states[role])):
            raise ValueError(
                f"`model` must be given, since {path} holds a {described['class']}, which cannot "
                "be rebuilt from its settings; got None"
            )
        built[role] = module
    if model is not None:
        parts = config["modules"][MODEL]["parts"]
        built[MODEL] = rebuilding.wrapped_as(parts, model, states[MODEL])
    for role, module in built.items():
        rebuilding.check_fit(role, module, config["modules"][role]["parts"], states[role])
    for role, module in built.items():
        is_new = any(tensor.is_meta for tensor in module.state_dict().values())
        module.load_state_dict(states[role], assign=is_new)
        module.eval()
    names = config["class_names"]
    return Checkpoint(
        built.pop(MODEL),
        None if names is None else tuple(names),
        config["preprocessing"],
        built,
        config["versions"],
    )


def describe(path: str | Path) -> str:
    """Return a checkpoint's configuration as indented JSON.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the package safetensors.
        ValueError: if it is not a checkpoint, or damaged.
    """
    _, config = migrate(path, *tensor_file.read(Path(path)))
    return json.dumps(config, indent=2)


def _without_shell(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` or data-parallel wrappers."""
    while True:
        is_parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        within = model.module if is_parallel else getattr(model, "_orig_mod", None)
        if not isinstance(within, nn.Module):
            return model
        model = within


def _state(role: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the module's state; it must consist of dense tensors that hold values."""
    state: dict[str, Any] = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            # A RobustLoss keeps its state there.
            is_extra = name.endswith("_extra_state")
            hint = ". Save a criterion by torch.save(criterion.state_dict(), path)"
            raise TypeError(
                f"`{role}` must have a state of dense tensors; got {name}: "
                f"{type(value).__name__}{hint if is_extra else ''}"
            )
    return state


def _check_extras(extras: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    for role, module in extras.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"`extras` must be modules; got {role}: {type(module).__name__}")
        if role == MODEL or not role.isidentifier():
            raise ValueError(
                f"`extras` must have identifiers other than {MODEL!r} as names; got {role!r}"
            )
        built = rebuilding.build(rebuilding.parts_of(module))
        if built is None or not rebuilding.fits(built, _state(role, module)):
            # A criterion's labels and progress are not part of a model.
            hint = ": save `criterion.targets`" if isinstance(module, RobustLoss) else ""
            raise ValueError(
                f"`extras` must be of {', '.join(rebuilding.BUILDABLE)}, without layers of your "
                f"own; got {role}: {type(module).__name__}{hint}"
            )
    return extras


def _check_names(
    class_names: Sequence[str] | None, parts: Mapping[str, Mapping[str, Any]]
) -> list[str] | None:
    """Require distinct names, one for each class of the model's parts."""
    if class_names is None:
        return None
    names = list(class_names)
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`class_names` must be a sequence of strings; got {class_names!r}")
    schema.check_names(names, parts)
    return names


def _check_json(name: str, content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if content is None:
        return None
    try:
        json.dumps(dict(content), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a mapping that JSON can hold; got {error}") from error
    return dict(content)
