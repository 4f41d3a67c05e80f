"""Settings for the question `tuning`: the authors' first, then three of the main parameter."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from benchmarks.methods.base import Plain
from benchmarks.methods.compared import Make, on_pixels
from benchmarks.methods.losses import focal, generalised_cross_entropy, symmetric_cross_entropy
from benchmarks.methods.others import Centers, EarlyLearning, ErasingConsistency, Proxies, SelfCure


def _with_loss(loss: Callable[..., Tensor], settings: list[dict[str, float]]) -> dict[str, Make]:
    return {_name(options): on_pixels(Plain, loss=partial(loss, **options)) for options in settings}


def _with_options(make: Make, settings: list[dict[str, float]]) -> dict[str, Make]:
    return {_name(options): partial(make, **options) for options in settings}


def _name(options: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in options.items())


GRIDS: Mapping[str, Mapping[str, Make]] = {
    "label smoothing": _with_loss(
        F.cross_entropy, [{"label_smoothing": share} for share in (0.11, 0.05, 0.2, 0.4)]
    ),
    "focal": _with_loss(focal, [{"gamma": gamma} for gamma in (2, 0.5, 1, 5)]),
    "GCE": _with_loss(generalised_cross_entropy, [{"q": q} for q in (0.7, 0.3, 0.5, 0.9)]),
    "symmetric CE": _with_loss(
        symmetric_cross_entropy,
        [{"forward": a, "reverse": b} for a, b in ((0.1, 1), (0.5, 1), (1, 1), (0.1, 3))],
    ),
    "ELR": _with_options(
        on_pixels(EarlyLearning),
        [{"weight": a, "momentum": b} for a, b in ((3, 0.7), (1, 0.7), (7, 0.7), (3, 0.9))],
    ),
    "SCN": _with_options(
        on_pixels(SelfCure),
        [
            {"relabel_from": a, "relabel_margin": b}
            for a, b in ((10, 0.2), (5, 0.2), (10, 0.1), (10, 0.4))
        ],
    ),
    "EAC": _with_options(
        ErasingConsistency,
        [{"weight": a, "erased": b} for a, b in ((5, 0.25), (1, 0.25), (20, 0.25), (5, 0.5))],
    ),
    "center loss": _with_options(
        on_pixels(Centers), [{"weight": w} for w in (0.003, 0.0003, 0.03, 0.3)]
    ),
    "SoftTriple": _with_options(
        partial(Proxies, loss="SoftTripleLoss"),
        [{"la": a, "gamma": b} for a, b in ((20, 0.1), (5, 0.1), (10, 0.1), (20, 1))],
    ),
    "ProxyAnchor": _with_options(
        partial(Proxies, loss="ProxyAnchorLoss"),
        [{"alpha": a, "margin": b} for a, b in ((32, 0.1), (8, 0.1), (16, 0.1), (32, 0.3))],
    ),
}
