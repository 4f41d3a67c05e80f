"""Tiny data sets in the IDX files of the MNIST family."""

import gzip

import numpy as np


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, *, count=20, zipped=True, num_classes=3, size=8):
    """A tiny data set in the four files of the MNIST family; class k is a bright row k."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, samples in (("train", count), ("t10k", count // 2)):
        labels = np.arange(samples) % num_classes
        images = generator.integers(0, 60, (samples, size, size))
        images[np.arange(samples), labels] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            if zipped:
                (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"{part}-{kind}-ubyte").write_bytes(content)
    return folder
