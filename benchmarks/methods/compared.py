"""The compared methods by name: on pixels and texts, and on human labels.

All have the same network, optimizer and number of forward passes, and otherwise their authors'
settings. None was tuned on the seeds of the tables; for ours see docs/research_log.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from torch.nn import functional as F

from benchmarks.methods.base import Method, Plain
from benchmarks.methods.losses import focal, generalised_cross_entropy, symmetric_cross_entropy
from benchmarks.methods.others import (
    Centers,
    CrossValidated,
    EarlyLearning,
    ErasingConsistency,
    OverParameterised,
    Proxies,
    RelativeUncertainty,
    SelfCure,
    logit_adjusted,
)
from benchmarks.methods.ours import Ours
from benchmarks.methods.two_views import (
    DivideMix,
    EarlyLearningPlus,
    OverParameterisedPlus,
    ProgressiveStopping,
)
from reliability_balance.core import MLPHead, get_recipe

Make = Callable[..., Method]  # of a task and a budget of forward passes

smoothed = partial(F.cross_entropy, label_smoothing=0.11)  # as in the paper
ROBUST = get_recipe("robust")
# The paper's head, for all that have one on pixels.
on_pixels = partial(partial, head=MLPHead)

ON_PIXELS: Mapping[str, Make] = {
    "cross-entropy": on_pixels(Plain),
    "label smoothing": on_pixels(Plain, loss=smoothed),
    "logit adjustment": on_pixels(logit_adjusted),
    "focal": on_pixels(Plain, loss=focal),
    "GCE": on_pixels(Plain, loss=generalised_cross_entropy),
    "symmetric CE": on_pixels(Plain, loss=symmetric_cross_entropy),
    "ELR": on_pixels(EarlyLearning),
    "SCN": on_pixels(SelfCure),
    "RUL": on_pixels(RelativeUncertainty),
    "EAC": ErasingConsistency,
    "EAC, logit-adjusted": partial(ErasingConsistency, is_adjusted=True),
    "center loss": on_pixels(Centers),
    "SoftTriple": partial(Proxies, loss="SoftTripleLoss"),
    "ProxyAnchor": partial(Proxies, loss="ProxyAnchorLoss"),
    "cross-entropy, linear head": Plain,
    "GCE, linear head": partial(Plain, loss=generalised_cross_entropy),
    "ELR, linear head": EarlyLearning,
    "logit adjustment, linear head": logit_adjusted,
    "ours, paper": partial(Ours, is_wrapped=False, recipe="paper"),
    "ours, robust": partial(Ours, is_wrapped=False),
}
# Ours without one part; the label says which.
WITHOUT: Mapping[str, Make] = {
    "ours, no anchors": partial(Ours, num_anchors=0),
    "ours, no fusion": partial(Ours, correction_weight=0.0),
    "ours, no mixing": partial(Ours, recipe=replace(ROBUST, mixing=None)),
    "ours, no held-back labels": partial(Ours, recipe=replace(ROBUST, held_back=0.0)),
    "ours, labels as given": partial(Ours, recipe=replace(ROBUST, refurbishes_labels=False)),
}
ON_HUMAN_LABELS: Mapping[str, Make] = {
    "cross-entropy": Plain,
    "cleanlab": CrossValidated,
    "label smoothing": partial(Plain, loss=smoothed),
    "GCE": partial(Plain, loss=generalised_cross_entropy),
    "ELR": EarlyLearning,
    "SOP": OverParameterised,
    "ours": Ours,
    **WITHOUT,
    "ours, paper": partial(Ours, recipe="paper"),
    "ELR+": EarlyLearningPlus,
    "SOP+": OverParameterisedPlus,
    "PES": ProgressiveStopping,
    "DivideMix": DivideMix,
    "ours, two views": partial(Ours, views=2),
}
TWO_VIEWS = ("ELR+", "SOP+", "PES", "DivideMix", "ours, two views")
