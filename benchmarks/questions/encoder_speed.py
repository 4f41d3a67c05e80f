"""How fast is our POSTER++, and how much memory does it need, beside the published arrangement?

Both have the same weights and give the same embeddings (`benchmarks/cost/published_encoder.py`).
Each figure is the published cost as a multiple of ours, all sides in turn in one process. Ours is
measured as built, and with weights stored channels-last.
"""

import copy
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import torch
from torch import nn

from benchmarks.cost.machine import peak_allocated
from benchmarks.cost.paired import alternate, ratio, single
from benchmarks.cost.parts import Finding
from benchmarks.cost.published_encoder import as_published
from benchmarks.cost.recording import record
from benchmarks.options import RESULTS, Quick, RenderOnly, Results, one_of
from benchmarks.reports.costs import RATIOS, report
from benchmarks.runs import publish
from reliability_balance.backbones import (
    PosterV2,
    poster_v2_base,
    poster_v2_small,
    poster_v2_tiny,
)

ENCODERS: dict[str, tuple[Callable[[], PosterV2], int]] = {  # with the batch size
    "poster_v2_base": (poster_v2_base, 2),
    "poster_v2_small": (poster_v2_small, 8),
    "poster_v2_tiny": (poster_v2_tiny, 32),
}


def main(
    part: Annotated[list[str] | None, one_of(ENCODERS)] = None,
    quick: Quick = False,
    seed: int = 0,
    results: Results = RESULTS,
    render_only: RenderOnly = False,
) -> None:
    """Measure all encoders, or the chosen ones."""
    torch.set_num_threads(1)
    path = results / "encoder_speed.json"
    for name in () if render_only else part or ENCODERS:
        torch.manual_seed(seed)
        settings = {"seed": str(seed), "sizes": "quick" if quick else "full"}
        about = "Published cost as a multiple of ours."
        record(path, name, about, compare(*ENCODERS[name], quick), settings)
    introduction = f"By `python -m benchmarks encoder_speed`. {RATIOS}"
    print(
        publish(path, None, partial(report, title="Speed of POSTER++", introduction=introduction))
    )


def compare(build: Callable[[], PosterV2], batch_size: int, quick: bool) -> Iterator[Finding]:
    """Compare training steps and predictions, by time and by memory."""
    ours = build()
    published = as_published(ours)
    last = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    models = {"ours": ours, "ours with channels-last weights": last}
    for work, number in ((train, batch_size), (predict, batch_size), (predict, 1)):
        number = min(number, 2) if quick else number
        images = torch.randn(number, 3, *2 * (ours.config.image_size,))
        setup = f"B {number}, {ours.config.image_size} px"
        theirs = partial(work, published, images)
        calls = {name: partial(work, model, images) for name, model in models.items()}
        seconds = alternate({"published": theirs, **calls}, 2 if quick else 5)
        for name in models:
            yield Finding(
                f"{work.__name__}, published / {name}",
                setup,
                ratio(seconds["published"], seconds[name]),
                1000 * statistics.median(seconds["published"]),
            )
        peaks = [float(peak_allocated(call)) for call in (theirs, calls["ours"])]
        yield Finding(
            f"memory to {work.__name__}, published / ours", setup, single(peaks[0] / peaks[1])
        )


def train(model: nn.Module, images: torch.Tensor) -> None:
    """Compute the gradients of a loss of the embeddings."""
    model.train()
    model(images).square().sum().backward()
    model.zero_grad()


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor) -> None:
    """Compute the embeddings."""
    model.eval()
    model(images)
