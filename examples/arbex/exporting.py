"""Export a model for other runtimes, and check that it still says the same."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from face_model import FaceModel
from faces.augmentation import MEAN, STANDARD_DEVIATION
from model_bundle import ModelBundle
from result_files import open_result
from torch import Tensor, nn

OUTPUTS = ("corrected", "primary", "confidence")
TOLERANCE = 1e-4  # of probabilities, which other kernels may round otherwise


class ExportedFaces(nn.Module):
    """The part of the output that an application needs, as tensors.

    Shape:
        - images: (B, 3, H, W) float32 in [0, 1], not yet normalised; returns corrected (B, C),
          primary (B, C) and confidence (B,).
    """

    pixel_mean: Tensor  # a mere "mean" would collide with a value within the ONNX graph
    pixel_deviation: Tensor

    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("pixel_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("pixel_deviation", torch.tensor(STANDARD_DEVIATION).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise, predict, and keep three fields."""
        output = self.model((images - self.pixel_mean) / self.pixel_deviation)
        return output.corrected, output.primary, output.confidence


def export_onnx(bundle: ModelBundle, path: Path) -> float:
    """Write an ONNX file for any batch size, with class names in its metadata.

    Returns:
        The greatest difference of a probability from the model's own, over two batch sizes.

    Raises:
        ImportError: if onnx, onnxruntime or onnxscript is not installed.
        RuntimeError: if the exported model says something else; the file is then not written.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "exporting to ONNX needs: pip install onnx onnxruntime onnxscript"
        ) from error
    module, example = _prepare(bundle)
    program = torch.onnx.export(
        module,
        (example,),
        input_names=["images"],
        output_names=list(OUTPUTS),
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    stored = program.model_proto
    onnx.helper.set_model_props(stored, _metadata(bundle))
    content = stored.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(o) for o in session.run(None, {"images": images.numpy()})]

    difference = _check_parity(module, run, bundle)
    with open_result(path) as file:
        file.write(content)
    return difference


def export_program(bundle: ModelBundle, path: Path) -> float:
    """Write a ``torch.export`` program (``.pt2``) for any batch size; see :func:`export_onnx`.

    Returns:
        The greatest difference of a probability from the model's own, over two batch sizes.

    Raises:
        RuntimeError: if the exported model says something else; the file is then not written.
    """
    module, example = _prepare(bundle)
    program = torch.export.export(
        module, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    with open_result(path) as file:
        torch.export.save(program, file, extra_files=_metadata(bundle))
        file.seek(0)
        loaded = torch.export.load(file).module()
        return _check_parity(module, lambda images: list(loaded(images)), bundle)


def _prepare(bundle: ModelBundle) -> tuple[ExportedFaces, Tensor]:
    module = ExportedFaces(bundle.model).cpu().eval()
    return module, _example(bundle, 2)


def _example(bundle: ModelBundle, batch_size: int) -> Tensor:
    side = bundle.recipe.data.image_size
    generator = torch.Generator().manual_seed(batch_size)
    return torch.rand(batch_size, 3, side, side, generator=generator)


def _metadata(bundle: ModelBundle) -> dict[str, str]:
    return {
        "class_names": json.dumps(list(bundle.class_names)),
        "image_size": str(bundle.recipe.data.image_size),
        "input": "RGB in [0, 1], (B, 3, image_size, image_size)",
        "versions": json.dumps(bundle.versions),
    }


@torch.inference_mode()
def _check_parity(
    module: ExportedFaces, run: Callable[[Tensor], list[Tensor]], bundle: ModelBundle
) -> float:
    difference = 0.0
    for batch_size in (1, 5):
        images = _example(bundle, batch_size)
        for expected, actual in zip(module(images), run(images), strict=True):
            difference = max(difference, float((expected - actual).abs().max()))
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"the exported model must agree to {TOLERANCE:g} with the model; differs by "
            f"{difference:g}"
        )
    return difference
