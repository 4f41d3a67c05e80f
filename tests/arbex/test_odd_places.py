"""Folders that may not be read, and names with spaces, quotes and letters of any script."""

import os
from multiprocessing import get_context

import face_trees
import pytest
import torch

from examples.arbex.faces.image_sources import decode
from examples.arbex.readers.reading import read_faces
from examples.arbex.serving.media import read_media
from examples.image_data import load_images
from examples.result_files import save_json
from reliability_balance import ReliabilityBalancer
from reliability_balance.backbones.weights import read_weights
from reliability_balance.checkpoint import load, save

NOBODY = 65534
NAMES = (
    "with spaces ",
    "Zoë und «größer»",
    "顔 データ",
    "لوجوه",
    "new\nline",
    "'quoted' \"twice\"",
    "-o; rm *",
)


def refusal(read, path, sender):
    """The error of reading as somebody who may not."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    try:
        read(path)
        sender.send("it was read")
    except Exception as error:
        sender.send((type(error).__name__, str(error)))


READERS = {
    "data set": lambda root: read_faces("folders", root),
    "data set of a list": lambda root: read_faces("raf-db", root),
    "csv": lambda root: read_faces("csv", root),
    "images": lambda root: load_images(root),
    "pictures to predict": lambda root: list(read_media(root)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_that_may_not_be_read_is_named(reader, tmp_path):
    face_trees.class_folders(tmp_path)
    tmp_path.chmod(0o000)
    try:
        fork = get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=refusal, args=(READERS[reader], tmp_path, sender))
        process.start()
        kind, message = receiver.recv()
        process.join()
    finally:
        tmp_path.chmod(0o700)
    assert kind == "PermissionError"
    assert str(tmp_path) in message


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(name, tmp_path):
    folder = tmp_path / name
    image = face_trees.write_image(folder / name / f"{name}.png")
    face_trees.write_image(folder / "other" / "1.png")
    assert len(read_faces("folders", folder)) == 2
    assert decode(image).shape == (3, 8, 8)
    save_json(folder / f"{name}.json", name)
    balancer = ReliabilityBalancer(4, 2)
    save(folder / f"{name}.safetensors", balancer)
    assert torch.equal(load(folder / f"{name}.safetensors").model.anchors, balancer.anchors)
    torch.save(balancer.state_dict(), folder / f"{name}.pt")
    assert read_weights(folder / f"{name}.pt").keys() == balancer.state_dict().keys()
