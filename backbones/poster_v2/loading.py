"""Load published weights: the whole encoder, or its IR50 or MobileFaceNet alone."""

import re
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from typing_extensions import Unpack

from reliability_balance.backbones.poster_v2.encoder import EncoderOptions, PosterV2
from reliability_balance.backbones.poster_v2.ir import IRBranch
from reliability_balance.backbones.poster_v2.mobilefacenet import MobileFaceNet
from reliability_balance.backbones.poster_v2.published import PUBLISHED_REST
from reliability_balance.backbones.poster_v2.sizes import poster_v2_base
from reliability_balance.backbones.weights import LoadReport, load_weights, read_weights

HEAD_WEIGHT = "VIT.head.linear.weight"
LANDMARK_PART = "face_landback."


class LoadedPosterV2(NamedTuple):
    """An encoder with weights from a file, and the report of loading."""

    encoder: PosterV2
    report: LoadReport


def load_poster_v2(
    path: str | Path, *, reduction_dim: int | None = None, **options: Unpack[EncoderOptions]
) -> LoadedPosterV2:
    """Build ``poster_v2_base`` with the weights of a published POSTER++ file.

    They were trained on RGB images in [0, 1], normalised by ImageNet's mean (.485, .456, .406) and
    standard deviation (.229, .224, .225).

    Args:
        path: a file of the POSTER_V2 repository, or a state_dict with its names; see
            :func:`read_weights`. The number of classes is read from its head.
        reduction_dim: width of a linear reduction after the encoder. No published file has one, so
            it is initialised at random. None: no reduction.
        **options: passed to :class:`PosterV2`. With another `landmark_branch`, the file's landmark
            weights are unused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a weight file, lacks a part, or has other shapes; the message
            names them.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     torch.save({"state_dict": poster_v2_base(num_classes=8).state_dict()}, file.name)
        ...     encoder, report = load_poster_v2(file.name)
        >>> encoder.VIT.head.linear.out_features, report.unused
        (8, ())
    """
    weights = read_weights(path)
    head = weights.get(HEAD_WEIGHT)
    num_classes = 7 if head is None or head.ndim != 2 else head.shape[0]
    encoder = poster_v2_base(num_classes=num_classes, reduction_dim=reduction_dim, **options)
    may_lack = [*PUBLISHED_REST, "reduction."]
    set_aside: list[str] = []
    if options.get("landmark_branch") is not None:
        may_lack.append(LANDMARK_PART)
        set_aside = [name for name in weights if name.startswith(LANDMARK_PART)]
    fitting = {name: tensor for name, tensor in weights.items() if name not in set_aside}
    report = load_weights(encoder, fitting, source=path, may_lack=may_lack)
    return LoadedPosterV2(encoder, report._replace(unused=(*report.unused, *set_aside)))


def load_ir50(branch: IRBranch, path: str | Path) -> LoadReport:
    """Load an IR50 file into an image branch.

    Args:
        branch: ``encoder.ir_back`` of ``poster_v2_base``.
        path: a file with stages ``body1``, ``body2``, ``body3`` (POSTER, POSTER++), or with all
            units in one ``body`` (face.evoLVe, ArcFace). Weights of a fourth stage and of the face
            recognition head are reported as unused.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a weight file, lacks a unit, or has other shapes.

    Example:
        >>> import tempfile, torch
        >>> branch = IRBranch()
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     torch.save(branch.state_dict(), file.name)
        ...     load_ir50(branch, file.name).unused
        ()
    """
    units = [len(branch.body1), len(branch.body2), len(branch.body3)]
    weights = _split_body(read_weights(path), units)
    return load_weights(branch, weights, source=path, may_lack=("output_layer.",))


def load_mobilefacenet(branch: MobileFaceNet, path: str | Path) -> LoadReport:
    """Load a MobileFaceNet file into a landmark branch.

    Args:
        branch: ``encoder.face_landback`` of ``poster_v2_base``.
        path: a file such as ``mobilefacenet_model_best.pth.tar``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a weight file, lacks a part, or has other shapes.

    Example:
        >>> import tempfile, torch
        >>> branch = MobileFaceNet()
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     torch.save({"state_dict": branch.state_dict()}, file.name)
        ...     load_mobilefacenet(branch, file.name).untouched
        ()
    """
    return load_weights(branch, read_weights(path), source=path, may_lack=("output_layer.",))


def _split_body(weights: dict[str, Tensor], units: list[int]) -> dict[str, Tensor]:
    """Rename consecutively numbered units, ``body.9.``, to ours, ``body3.2.``."""

    def rename(match: re.Match[str]) -> str:
        index = int(match[1])
        for stage, length in enumerate(units, start=1):
            if index < length:
                return f"body{stage}.{index}."
            index -= length
        return match[0]

    return {re.sub(r"^body\.(\d+)\.", rename, name): value for name, value in weights.items()}
