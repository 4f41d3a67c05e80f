"""Tasks with human labels, by name; the seed draws the training samples."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.data.annotators import majority
from benchmarks.data.cifar_human import LABEL_SETS, load_human_cifar
from benchmarks.data.human_faces import HumanFaces, load_human_faces
from benchmarks.data.image_embeddings import load_embeddings
from benchmarks.data.task import Task, shuffled
from benchmarks.networks import linear_probe, perceptron_on_embeddings, residual

NUM_ANNOTATORS, LABELS_A_FACE = 10, 3
FACE_CROP, CIFAR_CROP = 44, 32  # pixels of 48, and of 32 within a margin of 4


class Folders(NamedTuple):
    """Folders of the data and the embeddings."""

    fer_plus: Path | None = None
    cifar: Path | None = None
    cache: Path | None = None


class Samples(NamedTuple):
    """All images of a data set, and the labels of those that can be used in training."""

    images: Tensor
    test_images: Tensor
    chosen: Tensor
    labels: Tensor
    truth: Tensor
    is_known: Tensor
    test_labels: Tensor
    annotators: Tensor | None = None
    test_votes: Tensor | None = None


class Given(NamedTuple):
    """Indices (K,) of labelled faces, their labels, and the labels of annotators."""

    chosen: Tensor
    labels: Tensor
    annotators: Tensor | None = None


def given_labels(faces: HumanFaces, seed: int) -> Given:
    """Return FER2013's own labels."""
    return Given(torch.arange(len(faces.labels)), faces.labels)


def majority_of_votes(faces: HumanFaces, seed: int) -> Given:
    """Return the class with a clear majority of FER+'s ten votes, for faces that have one."""
    chosen = faces.wrong[1].nonzero().squeeze(1)
    return Given(chosen, faces.votes[chosen].argmax(1))


def shares_of_votes(faces: HumanFaces, seed: int) -> Given:
    """Return FER+'s votes as probabilities, for faces with a vote for one of the seven classes."""
    chosen = faces.votes.sum(1).nonzero().squeeze(1)
    return Given(chosen, _shares(faces.votes[chosen]))


def drawn_annotators(faces: HumanFaces, seed: int) -> Given:
    """Return three of a face's votes, each from one of ten annotators, and their majority.

    Ties are broken at random. FER+ does not record who gave a vote, so all annotators have the same
    quality.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = (faces.votes.sum(1) >= LABELS_A_FACE).nonzero().squeeze(1)
    votes = faces.votes[chosen]
    is_vote = torch.arange(int(votes.sum(1).max())) < votes.sum(1, keepdim=True)
    drawn = torch.multinomial(is_vote.float(), LABELS_A_FACE, generator=generator)
    # Vote v of a face is for the first class whose cumulative count exceeds v.
    classes = (drawn.unsqueeze(2) >= votes.cumsum(1).unsqueeze(1)).sum(2)
    by = torch.rand(len(votes), NUM_ANNOTATORS, generator=generator).argsort(1)[:, :LABELS_A_FACE]
    annotators = torch.full((len(votes), NUM_ANNOTATORS), -1).scatter(1, by, classes)
    return Given(chosen, majority(annotators, votes.shape[1], generator), annotators)


FACES: dict[str, Callable[[HumanFaces, int], Given]] = {
    "fer2013": given_labels,
    "fer-majority": majority_of_votes,
    "fer-votes": shares_of_votes,
    "fer-annotators": drawn_annotators,
}
CIFAR = {f"cifar-{name}": name for name in LABEL_SETS}
TASKS = (*FACES, *CIFAR)
NETWORKS = ("small-resnet", "embeddings", "linear-probe")
_load_faces, _load_cifar = cache(load_human_faces), cache(load_human_cifar)


def make_task(name: str, network: str, samples: int, seed: int, folders: Folders) -> Task:
    """Build one of TASKS for one of NETWORKS, with that many samples; 0: all.

    Raises:
        ValueError: if a required folder is None.
    """
    found = _faces(name, seed, folders) if name in FACES else _cifar(name, folders)
    rows = shuffled(len(found.chosen), seed)[: samples or None]
    chosen = found.chosen[rows]
    inputs, test_inputs = found.images, found.test_images
    num_classes = found.truth.shape[1]
    if network == "small-resnet":
        crops = {"crop": FACE_CROP} if name in FACES else {"crop": CIFAR_CROP, "margin": 4}
        seen_by = residual(inputs.shape[1], **crops)
    else:
        folder = _folder("cache", folders.cache, network)
        data = "fer" if name in FACES else "cifar"
        inputs, test_inputs = load_embeddings(folder, data, inputs, test_inputs)
        make = perceptron_on_embeddings if network == "embeddings" else linear_probe
        seen_by = make(inputs.shape[-1])
    return Task(
        inputs[chosen],
        found.labels[rows],
        found.truth[rows],
        test_inputs,
        found.test_labels,
        num_classes,
        seen_by,
        None if found.annotators is None else found.annotators[rows],
        found.is_known[rows],
        found.test_votes,
    )


def _faces(name: str, seed: int, folders: Folders) -> Samples:
    faces = _load_faces(_folder("fer_plus", folders.fer_plus, name))
    given = FACES[name](faces, seed)
    return Samples(
        faces.images,
        faces.test_images,
        given.chosen,
        given.labels,
        _shares(faces.votes[given.chosen]),
        faces.wrong[1][given.chosen],
        faces.test_votes.argmax(1),
        given.annotators,
        _shares(faces.test_votes),
    )


def _cifar(name: str, folders: Folders) -> Samples:
    data = _load_cifar(_folder("cifar", folders.cifar, name))
    count = len(data.images)
    return Samples(
        data.images,
        data.test_images,
        torch.arange(count),
        data.labels[CIFAR[name]],
        F.one_hot(data.labels["clean"]).float(),
        torch.ones(count, dtype=torch.bool),
        data.test_labels,
    )


def _folder(argument: str, folder: Path | None, name: str) -> Path:
    if folder is None:
        raise ValueError(f"`{argument}` must be a folder for {name}; got None")
    return folder


def _shares(votes: Tensor) -> Tensor:
    return votes / votes.sum(1, keepdim=True).clamp_min(1)


def prepare_embeddings(folders: Folders) -> None:
    """Compute the embeddings that the cache lacks, lest each process does."""
    if folders.cache is not None:
        if folders.fer_plus is not None:
            faces = _load_faces(folders.fer_plus)
            load_embeddings(folders.cache, "fer", faces.images, faces.test_images)
        if folders.cifar is not None:
            data = _load_cifar(folders.cifar)
            load_embeddings(folders.cache, "cifar", data.images, data.test_images)
