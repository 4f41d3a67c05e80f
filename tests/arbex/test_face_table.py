"""The face table and its data set: columns, selections, and what a loader makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from examples.arbex.faces.face_dataset import FaceDataset, FaceSample
from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION, FaceTable
from examples.arbex.faces.image_sources import ImageArray
from examples.image_files import CorruptImageError, decode


def make_table(**changes):
    columns = {
        "name": "six",
        "class_names": ("calm", "cross"),
        "images": ImageArray(np.arange(6, dtype=np.uint8).repeat(12).reshape(6, 3, 2, 2)),
        "names": list("abcdef"),
        "labels": torch.tensor([0, 1, 0, 1, 0, 1]),
        "groups": torch.tensor([5, 5, 6, 6, 7, 7]),
        "splits": torch.tensor([TRAIN, TRAIN, VALIDATION, TRAIN, TEST, TEST]).byte(),
    }
    return FaceTable(**columns | changes)


def test_a_subset_of_a_subset_keeps_rows_together():
    table = make_table(true_labels=torch.tensor([1, 1, 0, 1, 0, 1]))
    part = table.subset(TRAIN).select(torch.tensor([2, 0]))
    assert list(part.names) == ["d", "a"]
    assert [int(part.images[i].unique()) for i in range(2)] == [3, 0]
    assert part.labels.tolist() == [1, 0]
    assert part.true_labels.tolist() == [1, 1]
    assert part.groups.tolist() == [6, 5]
    assert list(part.names[1:]) == ["a"]


def test_counts_are_of_splits_and_classes():
    assert make_table().counts().tolist() == [[1, 2], [1, 0], [1, 1]]


def test_a_loader_joins_samples_field_by_field():
    table = make_table().subset(TRAIN)
    batch = next(iter(DataLoader(FaceDataset(table, lambda image: image / 255), batch_size=3)))
    assert isinstance(batch, FaceSample)
    assert batch.image.shape == (3, 3, 2, 2)
    assert batch.label.tolist() == [0, 1, 1]
    assert batch.index.tolist() == [0, 1, 2]
    assert batch.distribution.tolist() == [[1, 0], [0, 1], [0, 1]]


def test_soft_labels_of_the_table_are_given():
    soft = torch.tensor([[0.25, 0.75]] * 6)
    sample = FaceDataset(make_table(distributions=soft), lambda image: image.float())[4]
    assert sample.distribution.tolist() == [0.25, 0.75]
    assert sample.label == 0


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_images_of_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    ramp = np.arange(256, dtype=np.uint16).repeat(4).reshape(32, 32) * 257
    Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    picture = decode(tmp_path / f"ramp.{suffix}")
    assert picture.shape == (3, 32, 32)
    assert torch.equal(
        picture[1].flatten(), torch.arange(256, dtype=torch.uint8).repeat_interleave(4)
    )


def test_images_of_floats_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(CorruptImageError, match=r"f\.tiff must be an image.*floating pixels"):
        decode(tmp_path / "f.tiff")


def test_gray_arrays_become_rgb():
    images = ImageArray(np.full((1, 1, 2, 2), 9, dtype=np.uint8))
    assert torch.equal(images[0], torch.full((3, 2, 2), 9, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"labels": torch.tensor([0, 1, 0, 1, 0, 2])},
            ValueError,
            r"`labels` must lie in \[0, 2\)",
        ),
        ({"labels": torch.zeros(6)}, TypeError, "`labels` must have dtype torch.int64; got"),
        (
            {"groups": torch.zeros(5, dtype=torch.int64)},
            ValueError,
            r"`groups` must have shape \(6,\)",
        ),
        ({"splits": torch.full((6,), 3).byte()}, ValueError, r"`splits` must lie in \[0, 3\)"),
        ({"names": ["a"]}, ValueError, "`images` must hold 1 images; got 6"),
        (
            {"distributions": torch.zeros(6, 3)},
            ValueError,
            r"`distributions` must have shape \(6, 2\)",
        ),
    ],
)
def test_columns_that_do_not_fit_are_named(change, error, message):
    with pytest.raises(error, match=message):
        make_table(**change)


def test_arrays_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"dtype uint8 .* got float32"):
        ImageArray(np.zeros((1, 3, 2, 2), dtype=np.float32))
