"""A few bytes that claim to be a huge picture, or to unpack to one, are refused unread."""

import gzip
import struct
import zlib

import face_trees
import pytest

from examples.arbex.faces.face_dataset import drop_corrupt
from examples.arbex.faces.image_sources import CorruptImageError, decode
from examples.arbex.readers.reading import read_faces
from examples.arbex.serving.media import read_media
from examples.image_data import load_images, read_idx

# By resource limits alone a test could not tell memory that was not needed from memory that was
# there, so the peak of what Python and numpy asked for is looked at.
MEBIBYTE = 1 << 20


def bomb(path, side=50_000):
    """A valid PNG of one bit a pixel, all black: 2.5 billion pixels in some 300 kB."""
    size = struct.pack(">II", side, side) + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(side * (1 + side // 8)), 9) if side < 20_000 else zlib.compress(b"")

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (chunk(b"IHDR", size), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("side", [8_192, 12_000, 50_000])
def test_a_picture_beyond_the_limit_is_refused(side, tmp_path):
    path = bomb(tmp_path / "bomb.png", side)
    assert path.stat().st_size < MEBIBYTE
    with pytest.raises(CorruptImageError, match=r"bomb\.png must be an image .* pixels"):
        decode(path)


def test_the_rest_of_a_data_set_is_kept(tmp_path):
    face_trees.class_folders(tmp_path)
    bomb(tmp_path / "calm" / "bomb.png")
    table = read_faces("folders", tmp_path)
    sound = drop_corrupt(table)
    assert len(sound) == len(table) - 1
    assert sound.problems[-1].kind == "corrupt image"
    frames = [frame for frame in read_media(tmp_path) if frame.problem is not None]
    assert [frame.name for frame in frames] == ["calm/bomb.png"]
    with pytest.raises(CorruptImageError, match=r"bomb\.png"):
        load_images(tmp_path)


def test_a_gzip_bomb_is_read_only_as_far_as_its_header_says(tmp_path):
    path = tmp_path / "bomb.gz"
    header = bytes([0, 0, 8, 1]) + (1000).to_bytes(4, "big")
    path.write_bytes(gzip.compress(header + bytes(64 * MEBIBYTE)))
    with pytest.raises(ValueError, match=r"bomb\.gz must hold \(1000,\).*got 1001 or more"):
        read_idx(path)
