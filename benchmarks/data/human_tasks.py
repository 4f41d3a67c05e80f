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


class Folders(NamedTuple):
    """Folders of the data and the embeddings."""

    fer_plus: Path | None = None
    cifar: Path | None = None
    cache: Path | None = None


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
    of_images = _faces(name, seed, folders) if name in FACES else _cifar(name, folders)
    images, test_images, task = of_images
    task = task.rows(shuffled(len(task.labels), seed)[: samples or None])
    if network != "small-resnet":
        folder = _folder("cache", folders.cache, network)
        data = "fer" if name in FACES else "cifar"
        images, test_images = load_embeddings(folder, data, images, test_images)
        make = perceptron_on_embeddings if network == "embeddings" else linear_probe
        task = task._replace(network=make(images.shape[-1]))
    return task._replace(inputs=images[task.inputs], test_inputs=test_images)


class OfImages(NamedTuple):
    """Images, test images, and a task whose inputs are the indices of its images."""

    images: Tensor
    test_images: Tensor
    task: Task


def _faces(name: str, seed: int, folders: Folders) -> OfImages:
    faces = _load_faces(_folder("fer_plus", folders.fer_plus, name))
    chosen, labels, annotators = FACES[name](faces, seed)
    task = Task(
        chosen,
        labels,
        _shares(faces.votes[chosen]),
        torch.empty(0),
        faces.test_votes.argmax(1),
        faces.votes.shape[1],
        residual(1, crop=44),
        annotators,
        faces.wrong[1][chosen],
        _shares(faces.test_votes),
    )
    return OfImages(faces.images, faces.test_images, task)


def _cifar(name: str, folders: Folders) -> OfImages:
    data = _load_cifar(_folder("cifar", folders.cifar, name))
    truth = F.one_hot(data.labels["clean"]).float()
    task = Task(
        torch.arange(len(truth)),
        data.labels[CIFAR[name]],
        truth,
        torch.empty(0),
        data.test_labels,
        truth.shape[1],
        residual(3, crop=32, margin=4),
    )
    return OfImages(data.images, data.test_images, task)


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
