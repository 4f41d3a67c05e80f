"""Tasks with inputs that belong to none of their classes."""

import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from benchmarks.data.corruptions import CORRUPTIONS
from benchmarks.data.human_tasks import Folders, make_task
from benchmarks.data.image_embeddings import load_embeddings
from benchmarks.data.task import Task
from benchmarks.data.tasks import digits, fashion, standardised

SAMPLES = 10_000
STRANGE = 2000  # inputs of an out-of-distribution set, at most


class WithStrange(NamedTuple):
    """A task, and inputs of none of its classes by name."""

    task: Task
    strange: Mapping[str, Tensor]


def fashion_and_others(labels: str, seed: int, folders: Folders) -> WithStrange:
    """Fashion-MNIST; digits, letters, and inverted and shuffled images."""
    task = CORRUPTIONS[labels](fashion(SAMPLES, seed), seed)
    generator = torch.Generator().manual_seed(seed)
    some = task.test_inputs[:STRANGE]
    strange = {
        "digits": digits(10, seed).test_inputs,
        "letters": standardised(letters(1000, seed)),
        "inverted": -some + 2 * standardised(torch.tensor(0.5)),
        "shuffled pixels": some[:, torch.randperm(some.shape[1], generator=generator)],
    }
    return WithStrange(task, strange)


def fashion_without_a_class(labels: str, seed: int, folders: Folders) -> WithStrange:
    """Fashion-MNIST without the class that the seed names, which is strange."""
    task, strange = without(fashion(SAMPLES, seed), seed % 10)
    return WithStrange(CORRUPTIONS[labels](task, seed), {"held-out class": strange})


def cifar_without_a_class(labels: str, seed: int, folders: Folders) -> WithStrange:
    """Embeddings of CIFAR-10 without the class that the seed names, which is strange."""
    whole = make_task("cifar-clean", "embeddings", SAMPLES, seed, folders)
    task, strange = without(whole, seed % 10)
    return WithStrange(CORRUPTIONS[labels](task, seed), {"held-out class": strange})


def faces_and_others(labels: str, seed: int, folders: Folders) -> WithStrange:
    """Embeddings of FER+; rendered faces, and CIFAR-10's objects."""
    task = make_task(FACE_LABELS[labels], "embeddings", SAMPLES, seed, folders)
    objects = make_task("cifar-clean", "embeddings", 1, seed, folders).test_inputs
    assert folders.cache is not None  # make_task has asked for it
    images = _rendered()
    _, rendered = load_embeddings(folders.cache, "rendered", images[:1], images)
    return WithStrange(task, {"rendered faces": rendered, "objects": objects[:STRANGE]})


@cache
def _rendered() -> Tensor:
    """Return a thousand faces (1000, 1, 48, 48) uint8, grey as FER+'s."""
    from examples.arbex.rendering.rendered_faces import PRESETS, rendered_faces

    settings = replace(PRESETS["easy"], num_faces=1000, image_size=48, num_identities=100)
    images = rendered_faces(settings).images
    pixels = torch.stack([torch.as_tensor(images[row]) for row in range(len(images))])
    return pixels.float().mean(1, keepdim=True).round().byte()


def letters(count: int, seed: int) -> Tensor:
    """Draw letters (count, 784) in [0, 1], in Pillow's font: 18 to 26 pixels, turned and bold."""
    generator = np.random.default_rng(seed)
    drawn = []
    for index in range(count):
        image = Image.new("L", (28, 28))
        font = ImageFont.load_default(size=int(generator.integers(18, 27)))
        letter = string.ascii_letters[index % len(string.ascii_letters)]
        grey, stroke = int(generator.integers(160, 256)), int(generator.integers(0, 2))
        ImageDraw.Draw(image).text(
            (14, 14), letter, fill=grey, font=font, anchor="mm", stroke_width=stroke
        )
        angle = float(generator.uniform(-25, 25))
        drawn.append(np.asarray(image.rotate(angle, resample=Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(drawn)).float().flatten(1) / 255


def without(task: Task, held_out: int) -> tuple[Task, Tensor]:
    """Return the task without a class, and the test inputs of that class."""
    tested = task.test_labels != held_out
    smaller = task.rows(task.labels != held_out)
    labels, test_labels = (
        each - (each > held_out).long() for each in (smaller.labels, task.test_labels[tested])
    )
    num_classes = task.num_classes - 1
    smaller = smaller._replace(
        labels=labels,
        truth=F.one_hot(labels, num_classes).float(),
        test_inputs=task.test_inputs[tested],
        test_labels=test_labels,
        num_classes=num_classes,
    )
    return smaller, task.test_inputs[~tested]


FACE_LABELS = {"FER+ majority": "fer-majority", "FER2013": "fer2013"}
ON_PIXELS = ("Fashion-MNIST", "Fashion-MNIST without a class")
DATA: dict[str, Callable[[str, int, Folders], WithStrange]] = {
    "Fashion-MNIST": fashion_and_others,
    "Fashion-MNIST without a class": fashion_without_a_class,
    "CIFAR-10 without a class": cifar_without_a_class,
    "FER+": faces_and_others,
}
