"""Stylised faces, rendered from a seed, for first runs and experiments with known ground truth.

A face shows a blend of seven expressions. Its label is drawn from the label distribution of the
blend, so even a perfect model has a known error rate (:func:`best_accuracy`). Noise then replaces
a known share of the training labels.
"""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable
from examples.arbex.faces.image_sources import ImageArray
from examples.arbex.rendering.face_drawing import draw_faces
from examples.arbex.rendering.face_expressions import ACTIONS, CLASS_NAMES, Blends, draw_blends
from examples.arbex.rendering.face_parameters import Faces, draw_parameters
from examples.arbex.rendering.rendering_cache import cached_images
from reliability_balance import checks
from reliability_balance.data import pair_noise, symmetric_noise

Difficulty = Literal["easy", "medium", "hard"]
RenderedNoise = Literal["symmetric", "pair"]

RENDERER_VERSION = 1  # increase when the same settings give different pictures
BATCH = 64


@dataclass(frozen=True)
class RenderedFacesSettings:
    """Settings of the renderer; equal settings give equal faces.

    Args:
        num_faces: N.
        image_size: height and width in pixels.
        num_identities: number of people; each is in one split only.
        validation_share: share of the people for validation.
        test_share: share of the people for the test.
        imbalance: frequency of the most frequent class over that of the rarest, >= 1.
        ambiguity: 0: pure expressions at full strength; 1: up to even blends, and weak ones.
        individuality: 0: equal resting faces and facial actions; 1: permanent frowns and grins.
        pose: 1: yaw up to 40 degrees, pitch and roll up to 25; 0: frontal.
        light: 1: harsh and coloured light from any side; 0: even light.
        occlusion: probability of dark glasses, a mask, a hand or a blob over the face.
        camera_noise: 1: strong grain and blur; 0: none.
        label_noise: share of the training labels that are replaced by a wrong one. Validation and
            test labels are clean.
        noise_kind: "symmetric": any other class; "pair": the next class.
        seed: of all random draws.

    Raises:
        TypeError: if a count is not an int.
        ValueError: if a value is out of range.
    """

    num_faces: int = 6000
    image_size: int = 72
    num_identities: int = 60
    validation_share: float = 0.1
    test_share: float = 0.25
    imbalance: float = 4.0
    ambiguity: float = 0.6
    individuality: float = 0.5
    pose: float = 0.45
    light: float = 0.5
    occlusion: float = 0.1
    camera_noise: float = 0.25
    label_noise: float = 0.0
    noise_kind: RenderedNoise = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.at_least("num_faces", self.num_faces, 1)
        checks.at_least("image_size", self.image_size, 16)
        checks.at_least("num_identities", self.num_identities, 3)
        checks.one_of("noise_kind", self.noise_kind, ("symmetric", "pair"))
        if not self.imbalance >= 1.0:
            raise ValueError(f"`imbalance` must be at least 1; got {self.imbalance}")
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type is float and each.name != "imbalance" and not 0.0 <= value <= 1.0:
                raise ValueError(f"`{each.name}` must lie in [0, 1]; got {value}")
        if self.validation_share + self.test_share >= 1.0:
            raise ValueError(
                "`validation_share` + `test_share` must be less than 1; "
                f"got {self.validation_share} + {self.test_share}"
            )
        if self.num_validation + self.num_test >= self.num_identities:
            raise ValueError(
                "`num_identities` must be more than the people for validation and test, "
                f"{self.num_validation} + {self.num_test}; got {self.num_identities}"
            )

    @property
    def num_validation(self) -> int:
        """Return the number of people in the validation split, at least 1."""
        return max(1, round(self.validation_share * self.num_identities))

    @property
    def num_test(self) -> int:
        """Return the number of people in the test split, at least 1."""
        return max(1, round(self.test_share * self.num_identities))


PRESETS: dict[Difficulty, RenderedFacesSettings] = {
    # Clear, nearly frontal portraits, easy for people.
    "easy": RenderedFacesSettings(
        imbalance=2.0,
        ambiguity=0.25,
        individuality=0.3,
        pose=0.25,
        light=0.3,
        occlusion=0.0,
        camera_noise=0.1,
    ),
    # Ambiguous blends, turned heads, some glasses and masks, a fair camera.
    "medium": RenderedFacesSettings(),
    # Snapshots: weak and mixed expressions, harsh light, 25 % partly occluded, grain, and rare
    # classes.
    "hard": RenderedFacesSettings(
        imbalance=8.0,
        ambiguity=0.9,
        individuality=0.7,
        pose=0.7,
        light=0.7,
        occlusion=0.25,
        camera_noise=0.5,
    ),
}


def rendered_faces(settings: RenderedFacesSettings, cache: Path | None = None) -> FaceTable:
    """Render the faces, or load them from the cache.

    Args:
        settings: settings, such as ``replace(PRESETS["hard"], label_noise=0.4)``.
        cache: a folder for the pictures; settings that differ only in label noise share them.
            None: held in memory.

    Returns:
        The table: groups are identities, distributions are the true ones, true labels are those
        before noise.
    """
    identity, splits, blends, faces = _draw(settings)

    def render() -> Tensor:
        grain = torch.Generator().manual_seed(settings.seed + 1)
        return torch.cat(
            [
                draw_faces(faces.at(slice(start, start + BATCH)), settings.image_size, grain)
                for start in range(0, settings.num_faces, BATCH)
            ]
        )

    pictured = asdict(replace(settings, label_noise=0.0, noise_kind="symmetric"))
    images = (
        ImageArray(render().numpy())
        if cache is None
        else cached_images(cache, {"renderer": RENDERER_VERSION, **pictured}, render)
    )
    return FaceTable(
        name="rendered faces",
        class_names=CLASS_NAMES,
        images=images,
        names=[f"face {index:05d}" for index in range(settings.num_faces)],
        labels=_add_noise(blends.labels, splits, settings),
        groups=identity,
        splits=splits,
        distributions=blends.distributions,
        true_labels=blends.labels,
    )


def best_accuracy(table: FaceTable) -> float:
    """Return the best attainable expected accuracy: that of the most probable class."""
    if table.distributions is None:
        raise ValueError(f"`table` must have distributions; {table.name} has none")
    return float(table.distributions.amax(-1).mean())


def _draw(settings: RenderedFacesSettings) -> tuple[Tensor, Tensor, Blends, Faces]:
    generator = torch.Generator().manual_seed(settings.seed)
    people = settings.num_identities
    popularity = 0.5 + torch.rand(people, generator=generator)
    identity = popularity.multinomial(settings.num_faces, replacement=True, generator=generator)
    split_of = torch.full((people,), TRAIN, dtype=torch.uint8)
    order = torch.randperm(people, generator=generator)
    num_test, num_validation = settings.num_test, settings.num_validation
    split_of[order[:num_test]] = TEST
    split_of[order[num_test : num_test + num_validation]] = VALIDATION
    blends = draw_blends(settings.num_faces, settings.imbalance, settings.ambiguity, generator)
    faces = draw_parameters(
        identity,
        blends.weights @ ACTIONS,
        num_identities=people,
        individuality=settings.individuality,
        pose=settings.pose,
        light=settings.light,
        occlusion=settings.occlusion,
        noise=settings.camera_noise,
        generator=generator,
    )
    return identity, split_of[identity], blends, faces


def _add_noise(labels: Tensor, splits: Tensor, settings: RenderedFacesSettings) -> Tensor:
    training = splits == TRAIN
    draw = symmetric_noise if settings.noise_kind == "symmetric" else pair_noise
    noisy = labels.clone()
    noisy[training] = draw(
        labels[training], settings.label_noise, len(CLASS_NAMES), seed=settings.seed
    )
    return noisy
