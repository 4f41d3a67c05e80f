"""Pictures and videos that are not what they are named: refused one by one; the rest is read."""

import http.server
import os
import threading

import av
import face_trees
import numpy as np
import pytest
from PIL import Image, features
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe

from examples.arbex.face_model import build_model
from examples.arbex.model_bundle import load_bundle, save_bundle
from examples.arbex.report.run_report import report_on
from examples.arbex.serving.annotation import draw_annotated
from examples.arbex.serving.face_detection import whole_picture
from examples.arbex.serving.media import read_media
from examples.arbex.serving.prediction import predict_frame
from examples.image_data import load_images
from examples.image_files import IMAGE_FORMATS, CorruptImageError, decode

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(ran) (w) file closefile
showpage
%%EOF
"""


def video(path, width, height, codec="ffv1", frames=1):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        pixels = np.zeros((height, width), np.uint8)
        container.start_encoding()  # writes the file, also where no frame will come
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_no_interpreter_is_asked_for_a_picture(suffix, tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    started = []
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *a, **k: started.append(a))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(EPS)
    with pytest.raises(CorruptImageError, match=rf"a\.{suffix} must be an image"):
        decode(path)
    assert started == []


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_every_format_is_read_whatever_its_name(form, tmp_path):
    assert features.check("webp")
    Image.new("RGB", (8, 6), (200, 100, 50)).save(tmp_path / "a", form)
    (tmp_path / "a").rename(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").shape == (3, 6, 8)
    assert form == "MPO" or form in IMAGE_FORMATS  # which is JPEG to Pillow


@pytest.mark.parametrize("form", ["ICNS", "ICO", "TGA", "PCX", "SGI", "PDF", "DDS", "IM"])
def test_other_formats_are_refused(form, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a", form)
    (tmp_path / "a").rename(tmp_path / "a.png")
    with pytest.raises(CorruptImageError):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "mp4"])
def test_pipes_links_and_folders_are_told_one_by_one(suffix, tmp_path):
    face_trees.write_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / f"b.{suffix}")
    (tmp_path / f"c.{suffix}").symlink_to(tmp_path / "nothing")
    (tmp_path / f"d.{suffix}").mkdir()
    (tmp_path / f"e.{suffix}").symlink_to(tmp_path / f"e.{suffix}")
    face_trees.write_image(tmp_path / f"d.{suffix}" / "f.png")
    frames = list(read_media(tmp_path))
    assert [frame.name.split(".")[0] for frame in frames] == ["a", "b", "c", "d", "e"]
    assert [frame.problem is None for frame in frames] == [True, False, False, True, False]
    assert "no regular file" in frames[1].problem
    for index, name in ((1, "b"), (2, "c"), (4, "e")):
        assert str(tmp_path / f"{name}.{suffix}") in frames[index].problem
        (alone,) = read_media(tmp_path / f"{name}.{suffix}")
        assert alone.problem == frames[index].problem


def test_a_pipe_is_no_picture_of_a_data_set(tmp_path):
    face_trees.class_folders(tmp_path)
    os.mkfifo(tmp_path / "calm" / "pipe.png")
    with pytest.raises(CorruptImageError, match="no regular file"):
        load_images(tmp_path, image_size=8)


def test_a_video_beyond_the_limit_is_refused_unread(tmp_path):
    path = video(tmp_path / "huge.mkv", 12_000, 8_000)
    assert path.stat().st_size < 1 << 20
    (frame,) = read_media(path)
    assert frame.picture is None
    assert "huge.mkv must be" in frame.problem
    assert "12000 x 8000 pixels, more than 64,000,000" in frame.problem


def test_a_video_whose_later_frames_are_huge_is_refused_there(tmp_path):
    """A stream that says it is small: the decoder itself has the limit."""
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    for path, width in ((small, 64), (large, 8_192)):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=5)
            stream.width, stream.height, stream.pix_fmt = width, width, "yuvj420p"
            pixels = np.zeros((width, width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    mixed = tmp_path / "mixed.mkv"
    with (
        av.open(str(mixed), "w") as out,
        av.open(str(small)) as first,
        av.open(str(large)) as second,
    ):
        stream = out.add_stream_from_template(first.streams.video[0])
        for number, container in enumerate((first, second)):
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream, packet.pts, packet.dts = stream, 1000 * number, 1000 * number
                    out.mux(packet)
    frames = list(read_media(mixed, every_seconds=0))
    assert frames[0].picture.shape == (3, 64, 64)
    assert [frame.picture is None for frame in frames] == [False, True]
    assert "mixed.mkv must be" in frames[1].problem


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_video_without_frames_says_so(suffix, tmp_path):
    path = video(tmp_path / f"empty.{suffix}", 32, 32, frames=0)
    (frame,) = read_media(path)
    assert frame.problem.startswith(f"{path} must be a video ")


def test_a_film_without_pictures_says_so(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    (frame,) = read_media(path)
    assert frame.problem == f"{path} must be a video with frames; got none"


def test_no_video_asks_another_place(tmp_path):
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}/a.ts"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{place}\n#EXT-X-ENDLIST\n"
    lists = {"hls": playlist, "concat": f"ffconcat version 1.0\nfile '{place}'\n", "sdp": "v=0\n"}
    try:
        for name, content in lists.items():
            for suffix in ("mp4", "mkv", "webm"):
                (tmp_path / f"{name}.{suffix}").write_text(content)
        frames = list(read_media(tmp_path))
    finally:
        server.shutdown()
        server.server_close()
    assert len(frames) == 9
    assert all(frame.problem for frame in frames)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["http:a.mp4", "concat:a|b.mp4", "-i.mp4", "a b%20#?.mp4", "ß.mp4"]
)
def test_a_video_may_have_any_name(name, tmp_path):
    video(tmp_path / "plain.mkv", 32, 32).rename(tmp_path / name)
    (frame,) = read_media(tmp_path / name)
    assert frame.problem is None
    assert frame.picture.shape == (3, 32, 32)


def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    """A $ begins a formula in matplotlib, which then may be none."""
    names = (r"$\frac$", "5 $", "a_b^{")
    recipe = tiny_recipe()
    save_bundle(tmp_path / "model.safetensors", build_model(recipe, 3), recipe, names)
    bundle = load_bundle(tmp_path)
    table = synthetic_table(class_names=names)
    report_on(bundle, table, tmp_path)
    (frame,) = read_media(face_trees.write_image(tmp_path / "face.png", size=16))
    found = predict_frame(bundle, frame, whole_picture)
    draw_annotated(tmp_path / "annotated.png", frame.picture, found)
    assert (tmp_path / "annotated.png").stat().st_size > 1000
