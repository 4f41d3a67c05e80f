"""Argument checks, one function each.

Checks of shapes and types cost nothing and always run. Checks of values synchronize with the
device: callers run them only if ``validate_args`` is true, and they are skipped while a graph is
captured or under ``torch.func`` transforms.
"""

import math
import sys
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

# Packages between the user's line and a warning.
INTERNAL = ("reliability_balance", "torch", "sklearn")


def can_read_values() -> bool:
    """Return whether values may be read: not under ``torch.compile``, ``export`` or ``vmap``."""
    # torch has no public function that tells whether vmap is active.
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is None


def _got(name: str, value: object) -> str:
    """Return a value's type or dtype, and how to convert arrays and small integers."""
    if not isinstance(value, Tensor):
        is_array = isinstance(value, list) or hasattr(value, "__array__")
        hint = f": pass torch.as_tensor({name})" if is_array else ""
        return f"{type(value).__name__}{hint}"
    is_integer = not (value.is_floating_point() or value.is_complex())
    hint = f": pass {name}.long()" if is_integer and value.dtype != torch.int64 else ""
    return f"{value.dtype}{hint}"


def listed(texts: Iterable[str], *, shown: int = 5, separator: str = ", ") -> str:
    """Join the first texts, and say how many more there are.

    Example:
        >>> listed("abcdefg")
        'a, b, c, d, e, … and 2 more'
    """
    every = list(texts)
    more = [f"… and {len(every) - shown} more"] if len(every) > shown else []
    return separator.join(every[:shown] + more)


def floating(name: str, tensor: Tensor) -> None:
    """Require a tensor of a floating dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor; got {_got(name, tensor)}")
    if not tensor.is_floating_point():
        raise TypeError(f"`{name}` must have a floating dtype; got {tensor.dtype}")


def rank(name: str, tensor: Tensor, expected: str, *allowed: int) -> None:
    """Require one of the allowed numbers of dimensions; `expected` names the shape."""
    if tensor.ndim not in allowed:
        raise ValueError(f"`{name}` must have shape {expected}; got {tuple(tensor.shape)}")


def distributions(name: str, probs: Tensor) -> None:
    """Require a (..., C) tensor with at least two classes."""
    floating(name, probs)
    if probs.ndim == 0 or probs.shape[-1] < 2:
        raise ValueError(
            f"`{name}` must have shape (..., C) with C >= 2 classes; got {tuple(probs.shape)}"
        )


def anchor_set(anchors: Tensor) -> None:
    """Require anchors of shape (C, K, D) with C >= 2 and K >= 1."""
    floating("anchors", anchors)
    rank("anchors", anchors, "(C, K, D)", 3)
    if anchors.shape[0] < 2 or anchors.shape[1] < 1 or anchors.shape[2] < 1:
        raise ValueError(
            "`anchors` must have shape (C, K, D) with C >= 2, K >= 1 and D >= 1; "
            f"got {tuple(anchors.shape)}"
        )


def width(name: str, tensor: Tensor, dim: int) -> None:
    """Require a last dimension of `dim`."""
    if tensor.ndim == 0 or tensor.shape[-1] != dim:
        raise ValueError(f"`{name}` must have last dimension {dim}; got {tuple(tensor.shape)}")


def token_mask(mask: Tensor, tokens: Tensor) -> None:
    """Require a bool (B, T) mask for tokens (B, T, D)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"`token_mask` must be a bool tensor; got {got}")
    if tokens.ndim != 3 or mask.shape != tokens.shape[:2]:
        raise ValueError(
            "`token_mask` must have shape (B, T) beside tokens (B, T, D); "
            f"got {tuple(mask.shape)} and {tuple(tokens.shape)}"
        )


def finite(name: str, tensor: Tensor, token_mask: Tensor | None = None) -> None:
    """Require finite values; with a mask (B, T) only of unmasked tokens (B, T, D).

    With a mask, each sample must have at least one token.
    """
    if not can_read_values():
        return
    if token_mask is not None:
        if not bool(token_mask.any(1).all()):
            empty = int((~token_mask.any(1)).sum())
            raise ValueError(
                f"`token_mask` must leave each sample a token; got {empty} samples of only padding"
            )
        tensor = tensor.where(token_mask.unsqueeze(-1), 0.0)
    if tensor.numel() == 0:
        return
    low, high = torch.stack(tensor.aminmax()).tolist()  # NaN if any value is
    if not (low > -math.inf and high < math.inf):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(
            f"`{name}` must be finite; got {bad} NaN or infinite values of {tensor.numel()}"
        )


def scores(name: str, tensor: Tensor) -> None:
    """Require (..., C) without NaN or plus infinity, and not minus infinity for all classes."""
    if not can_read_values():
        return
    if not bool((tensor < torch.inf).all()):
        bad = int((~(tensor < torch.inf)).sum())
        raise ValueError(
            f"`{name}` must not be NaN or plus infinity; got {bad} such values of {tensor.numel()}"
        )
    if not bool((tensor > -torch.inf).any(-1).all()):
        bad = int((tensor == -torch.inf).all(-1).sum())
        raise ValueError(
            f"`{name}` must leave each sample a class; got minus infinity for all in {bad} rows"
        )


def primary_logits(logits: Tensor, count: int, num_classes: int, axis: str) -> None:
    """Require floating (count, C); `axis` is the symbol of the first dimension."""
    floating("primary_logits", logits)
    if logits.shape != (count, num_classes):
        raise ValueError(
            f"`primary_logits` must have shape ({axis}, C) = ({count}, {num_classes}); "
            f"got {tuple(logits.shape)}"
        )


def labels(labels: Tensor, batch_shape: torch.Size, num_classes: int) -> None:
    """Require hard int64 labels of the batch shape, or soft floating ones with a class axis."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"`labels` must be a torch.Tensor; got {_got('labels', labels)}")
    hard_shape, soft_shape = tuple(batch_shape), (*batch_shape, num_classes)
    if labels.dtype == torch.int64:
        if tuple(labels.shape) != hard_shape:
            raise ValueError(
                f"`labels` of dtype int64 must have shape {hard_shape}; got {tuple(labels.shape)}"
            )
    elif labels.is_floating_point():
        if tuple(labels.shape) != soft_shape:
            hint = ": class indices must be int64, labels.long()" if labels.ndim == 1 else ""
            raise ValueError(
                f"soft `labels` must have shape {soft_shape}; got {tuple(labels.shape)}{hint}"
            )
    else:
        raise TypeError(
            "`labels` must be int64 class indices or floating class probabilities; "
            f"got {_got('labels', labels)}"
        )


def confidences(confidence: Tensor, right: Tensor) -> None:
    """Require finite scores (N,), and bool (N,) beside them."""
    floating("confidence", confidence)
    rank("confidence", confidence, "(N,)", 1)
    finite("confidence", confidence)
    if not isinstance(right, Tensor) or right.dtype != torch.bool:
        got = right.dtype if isinstance(right, Tensor) else type(right).__name__
        raise TypeError(f"`right` must be a bool tensor; got {got}")
    if right.shape != confidence.shape:
        raise ValueError(
            f"`right` must have shape {tuple(confidence.shape)}; got {tuple(right.shape)}"
        )


def indices(name: str, tensor: Tensor) -> None:
    """Require an int64 tensor of shape (N,)."""
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
        raise TypeError(f"`{name}` must be an int64 tensor; got {_got(name, tensor)}")
    rank(name, tensor, "(N,)", 1)


def index_values(name: str, tensor: Tensor, size: int) -> None:
    """Require indices in [0, size)."""
    if not can_read_values() or tensor.numel() == 0:
        return
    low, high = torch.stack(tensor.aminmax()).tolist()
    if low < 0 or high >= size:
        raise ValueError(f"`{name}` must lie in [0, {size}); got values from {low} to {high}")


def not_labels(index: Tensor, labels: Tensor, num_samples: int, num_classes: int) -> None:
    """Reject labels passed as the index: the same tensor, or an equal one."""
    if labels.shape != index.shape or num_samples <= num_classes or not can_read_values():
        return
    same = index.numel() > 0 and index.data_ptr() == labels.data_ptr()
    # A correct index equals the labels only at the start of an ordered data set, where no sample
    # repeats, or by chance, with a probability below (C / N)^B.
    is_no_chance = len(index) * math.log(num_samples / num_classes) > -math.log(1e-6)
    if same or (is_no_chance and torch.equal(index, labels) and len(index.unique()) < len(index)):
        raise ValueError(
            "`index` must be each sample's place in the training set; got the labels. Let the data "
            "set return the index too, as IndexedDataset does"
        )


def label_values(labels: Tensor, num_classes: int, ignore_index: int | None = None) -> None:
    """Require class indices in [0, C), or non-negative rows that sum to 1."""
    if not can_read_values() or labels.numel() == 0:
        return
    if labels.is_floating_point():
        probability_values("soft `labels`", labels)
        return
    used = labels if ignore_index is None else labels[labels != ignore_index]
    ignored = "" if ignore_index is None else f" or equal ignore_index={ignore_index}"
    if used.numel() == 0:
        return
    low, high = torch.stack(used.aminmax()).tolist()
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"`labels` must lie in [0, {num_classes}){ignored}; got values from {low} to {high}"
        )


def probability_values(what: str, probs: Tensor) -> None:
    """Require non-negative rows that sum to 1, up to the precision of their dtype."""
    if not can_read_values() or probs.numel() == 0:
        return
    sums = probs.sum(-1, dtype=torch.promote_types(probs.dtype, torch.float32))
    tolerance = max(1e-3, 2 * torch.finfo(probs.dtype).eps)
    # NaN if any value is
    least, low, high = torch.stack([probs.amin().to(sums.dtype), *sums.aminmax()]).tolist()
    if not (least >= 0 and low > 1 - tolerance and high < 1 + tolerance):
        raise ValueError(
            f"{what} must be non-negative and sum to 1; got values from {least:g} and sums from "
            f"{low:g} to {high:g}"
        )


def log_probability_values(name: str, log_probs: Tensor) -> None:
    """Require rows (..., C) whose exponentials sum to 1, up to the precision of their dtype."""
    if not can_read_values() or log_probs.numel() == 0:
        return
    sums = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).logsumexp(-1).exp()
    # Rounding a log-probability errs in proportion to its size, on average log C at most.
    tolerance = max(1e-3, math.log(log_probs.shape[-1]) * torch.finfo(log_probs.dtype).eps)
    low, high = torch.stack(sums.aminmax()).tolist()  # NaN if any value is
    if not (low > 1 - tolerance and high < 1 + tolerance):
        raise ValueError(
            f"`{name}` must be log-probabilities, whose exponentials sum to 1; got sums from "
            f"{low:g} to {high:g}: pass logits.log_softmax(-1), or the logarithms of probabilities"
        )


def fitted(what: str, values: Tensor) -> None:
    """Require values that `fit` or a loaded state has set; they are NaN before."""
    is_captured = values.is_cuda and torch.cuda.is_current_stream_capturing()
    if values.is_meta or is_captured or not can_read_values():
        return
    if bool(values.isnan().any()):
        raise RuntimeError(f"`fit` must be called before {what} used")


def class_prior(class_prior: Tensor, num_classes: int, name: str = "class_prior") -> None:
    """Require a tensor with one value per class."""
    if not isinstance(class_prior, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor; got {type(class_prior).__name__}")
    if class_prior.shape != (num_classes,):
        raise ValueError(
            f"`{name}` must have shape (C,) = ({num_classes},); got {tuple(class_prior.shape)}"
        )


def class_prior_values(class_prior: Tensor, name: str = "class_prior") -> None:
    """Require finite frequencies > 0."""
    if class_prior.is_meta or not can_read_values():
        return
    if not bool(((class_prior > 0) & class_prior.isfinite()).all()):
        raise ValueError(f"`{name}` must be finite and above 0; got {class_prior.tolist()}")


def positive(name: str, value: float) -> None:
    """Require a finite number greater than zero."""
    if not value > 0:
        raise ValueError(f"`{name}` must be greater than 0; got {value}")
    if value == math.inf:
        raise ValueError(f"`{name}` must be finite; got {value}")


def non_negative(name: str, value: float) -> None:
    """Require a finite number >= 0."""
    if not value >= 0:
        raise ValueError(f"`{name}` must be at least 0; got {value}")
    if value == math.inf:
        raise ValueError(f"`{name}` must be finite; got {value}")


def fraction(name: str, value: float) -> None:
    """Require a number in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1); got {value}")


def open_share(name: str, value: float) -> None:
    """Require a number in (0, 1)."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must lie in (0, 1); got {value}")


def at_least(name: str, value: int, minimum: int) -> None:
    """Require an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int; got {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}; got {value}")


def callable_or_none(name: str, value: object) -> None:
    """Require a function or None."""
    if value is not None and not callable(value):
        raise TypeError(f"`{name}` must be callable or None; got {type(value).__name__}")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Require one of the allowed names."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def warn(message: str) -> None:
    """Warn at the line of the user's code: the first outside this package, torch and scikit-learn.

    Args:
        message: the warning.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in INTERNAL:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
