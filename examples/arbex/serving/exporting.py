"""Export a model for other runtimes, and check that its predictions are the same."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from examples.arbex.face_model import FaceModel
from examples.arbex.faces.augmentation import MEAN, STANDARD_DEVIATION, eval_transform
from examples.arbex.model_bundle import ModelBundle
from examples.result_files import open_result

OUTPUTS = ("corrected", "primary", "confidence")
TOLERANCE = 1e-4  # of probabilities, for different kernels
ROUNDING = 1e-2  # of probabilities, since `predict` resizes in 8 bits and the export in 32
SIZES = ((97, 64), (48, 51), (300, 210))  # of the pictures that test an export


class ExportedFaces(nn.Module):
    """A model with its preprocessing, and the outputs that an application needs.

    Shape:
        - images: (B, 3, H, W) uint8, RGB, of any size; returns corrected (B, C), primary (B, C)
          and confidence (B,).
    """

    pixel_mean: Tensor  # "mean" would collide with a value in the ONNX graph
    pixel_deviation: Tensor

    def __init__(self, model: FaceModel, image_size: int) -> None:
        super().__init__()
        self.model = model
        resize, crop, *_ = eval_transform(image_size).transforms
        self.before_crop, self.image_size = list(resize.size), list(crop.size)
        self.register_buffer("pixel_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("pixel_deviation", torch.tensor(STANDARD_DEVIATION).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Resize, crop the centre, normalise and predict; return three fields of the output."""
        # As torchvision's `resize`, without a shortcut that cannot be exported.
        resized = nn.functional.interpolate(
            images.float(), self.before_crop, mode="bilinear", antialias=True
        )
        faces = functional.center_crop(resized, self.image_size) / 255
        output = self.model((faces - self.pixel_mean) / self.pixel_deviation)
        return output.corrected, output.primary, output.confidence

    def describe(self) -> str:
        """Return a description of the preprocessing in JSON."""
        return json.dumps(
            {
                "resize": self.before_crop,
                "interpolation": "bilinear, antialiased",
                "center_crop": self.image_size,
                "scale": 1 / 255,
                "mean": MEAN,
                "std": STANDARD_DEVIATION,
            }
        )


def export_onnx(bundle: ModelBundle, path: Path) -> float:
    """Write an ONNX file, from the pixels of faces of any size to their classes.

    The graph includes all preprocessing of a decoded picture; the metadata hold the class names and
    describe the input.

    Returns:
        The largest difference of a probability from that of `predict`, over some pictures.

    Raises:
        ImportError: if onnx, onnxruntime or onnxscript is not installed.
        RuntimeError: if the exported model's output differs; the file is then not written.
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
        dynamic_shapes=_dynamic_shapes(),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    stored = program.model_proto
    onnx.helper.set_model_props(stored, _metadata(bundle, module))
    content = stored.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(o) for o in session.run(None, {"images": images.numpy()})]

    difference = check_parity(module, run, bundle)
    with open_result(path) as file:
        file.write(content)
    return difference


def export_program(bundle: ModelBundle, path: Path) -> float:
    """Write a ``torch.export`` program (``.pt2``) with the content of :func:`export_onnx`.

    Returns:
        The largest difference of a probability from that of `predict`, over some pictures.

    Raises:
        RuntimeError: if the exported model's output differs; the file is then not written.
    """
    module, example = _prepare(bundle)
    program = torch.export.export(module, (example,), dynamic_shapes=_dynamic_shapes())
    with open_result(path) as file:
        torch.export.save(program, file, extra_files=_metadata(bundle, module))
        file.seek(0)
        loaded = torch.export.load(file).module()
        return check_parity(module, lambda images: list(loaded(images)), bundle)


def _prepare(bundle: ModelBundle) -> tuple[ExportedFaces, Tensor]:
    module = ExportedFaces(bundle.model, bundle.config.data.image_size).cpu().eval()
    return module, _waves(2, SIZES[0])


def _dynamic_shapes() -> dict[str, dict[int, Any]]:
    names = {0: "batch", 2: "height", 3: "width"}
    return {"images": {place: torch.export.Dim(name) for place, name in names.items()}}


def _waves(batch_size: int, size: tuple[int, int]) -> Tensor:
    """Return smooth pictures with edges; on noise the two ways of rounding would differ most."""
    generator = torch.Generator().manual_seed(batch_size)
    rows, columns = (torch.linspace(0, 1, each) for each in size)
    pitch, phase = 20 * torch.rand(2, batch_size, 3, 1, 1, 2, generator=generator) - 10
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    waves: Tensor = (pitch * places + phase).sum(-1).sin()
    return (127.5 + 127 * waves).byte()


def _metadata(bundle: ModelBundle, module: ExportedFaces) -> dict[str, str]:
    return {
        "class_names": json.dumps(list(bundle.class_names)),
        "input": "images: one face each, cropped, upright (as its EXIF tag says), RGB of 8 bits, "
        "uint8 (B, 3, height, width), of any size",
        "done_in_the_graph": module.describe(),
        "versions": json.dumps(bundle.versions),
    }


@torch.inference_mode()
def check_parity(
    module: ExportedFaces, run: Callable[[Tensor], list[Tensor]], bundle: ModelBundle
) -> float:
    """Compare an exported model with the original and with `predict`.

    Args:
        module: the original.
        run: runs the exported model.
        bundle: the model.

    Returns:
        The largest difference of a probability from that of `predict`, over some pictures.

    Raises:
        RuntimeError: if the exported model's output differs or has NaN.
    """
    transform = eval_transform(bundle.config.data.image_size)
    differences = []
    for batch_size, size in zip((1, 5, 2), SIZES, strict=True):
        images = _waves(batch_size, size)
        actual = run(images)
        output = bundle.model(transform(images))
        _expect_close(module(images), actual, TOLERANCE)
        predicted = (output.corrected, output.primary, output.confidence)
        differences.append(_expect_close(predicted, actual, ROUNDING))
    return max(differences)


def _expect_close(expected: Iterable[Tensor], actual: Iterable[Tensor], tolerance: float) -> float:
    pairs = zip(expected, actual, strict=True)
    # Python's `max` would ignore NaN; that of tensors does not.
    difference = float(torch.cat([(one - other).abs().flatten() for one, other in pairs]).max())
    if not difference <= tolerance:
        raise RuntimeError(
            f"the exported model must agree to {tolerance:g} with the model; differs by "
            f"{difference:g}"
        )
    return difference
