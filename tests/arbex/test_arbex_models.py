"""A trained model as a file: bundle, export, prediction, report."""

import builtins
import csv
import io
import json
import os
import re
import struct

import av
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe

from examples.arbex.configuration import override_config
from examples.arbex.encoders import build_encoder, load_published
from examples.arbex.face_model import build_model
from examples.arbex.faces.augmentation import MEAN, STANDARD_DEVIATION, eval_transform
from examples.arbex.model_bundle import load_bundle, save_bundle
from examples.arbex.plain_text import printable, say
from examples.arbex.report.run_report import report_on
from examples.arbex.serving.exporting import (
    ExportedFaces,
    check_parity,
    export_onnx,
    export_program,
)
from examples.arbex.serving.face_detection import square_around, whole_picture, yunet_detector
from examples.arbex.serving.media import Frame, read_media
from examples.arbex.serving.prediction import (
    FacePrediction,
    deciding_branches,
    predict_frame,
    prediction_files,
)
from reliability_balance import functional as RF

NAMES = ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def bundle_file(tmp_path_factory):
    torch.manual_seed(0)
    recipe = tiny_recipe()
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_bundle(path, build_model(recipe, 3), recipe, NAMES)
    return path


@pytest.fixture
def bundle(bundle_file):
    return load_bundle(bundle_file)


def test_a_bundle_survives_being_written_and_read(bundle_file):
    first, second = load_bundle(bundle_file), load_bundle(bundle_file.parent)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(first.model(images).corrected, second.model(images).corrected)
    assert first.class_names == NAMES
    assert first.config == tiny_recipe()
    assert torch.__version__.startswith(first.versions["torch"])


def test_a_bundle_does_without_the_weights_that_training_began_from(tmp_path):
    weights = tmp_path / "weights.pt"
    options = {"name": "test_vit", "weights": str(weights)}
    torch.save(build_encoder("timm", {"name": "test_vit"}).model.state_dict(), weights)
    recipe = tiny_recipe(encoder={"name": "timm", "options": options})
    model = build_model(recipe, 3)
    save_bundle(tmp_path / "model.safetensors", model, recipe, NAMES)
    weights.unlink()
    found = load_bundle(tmp_path)
    assert found.config == recipe
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_what_is_no_bundle_is_refused(tmp_path, bundle_file):
    with pytest.raises(FileNotFoundError, match="folder of a run"):
        load_bundle(tmp_path)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.safetensors must be a model that `train` wrote"):
        load_bundle(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"bare\.safetensors must be a model"):
        load_bundle(tmp_path / "bare.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(bundle_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors must be a model"):
        load_bundle(tmp_path / "cut.safetensors")
    wider = tiny_recipe(encoder={"name": "small_cnn", "options": {"width": 8}})
    save_bundle(tmp_path / "other.safetensors", build_model(wider, 3), tiny_recipe(), NAMES)
    with pytest.raises(ValueError, match="weights that do not fit its configuration"):
        load_bundle(tmp_path / "other.safetensors")


def test_encoders_are_known_by_name():
    with pytest.raises(ValueError, match=r"one of poster_v2_tiny.*got 'resnet'"):
        build_encoder("resnet", {})
    with pytest.raises(ValueError, match="must fit small_cnn"):
        build_encoder("small_cnn", {"depth": 3})
    with pytest.raises(ValueError, match=r"need a POSTER\+\+ encoder; got SmallCNN"):
        load_published(build_encoder("small_cnn", {}), bundle_file, None)


@pytest.fixture(scope="module")
def sure_bundle(tmp_path_factory):
    """A small POSTER++ whose answers depend much on the pixels."""
    torch.manual_seed(0)
    recipe = override_config(
        tiny_recipe(), ["encoder={name: poster_v2_tiny}", "data.image_size=64"]
    )
    model = build_model(recipe, 3)
    with torch.no_grad():
        model.balancer.head.layers[-1].weight.mul_(30)
    path = tmp_path_factory.mktemp("sure") / "model.safetensors"
    save_bundle(path, model, recipe, NAMES)
    return load_bundle(path)


@pytest.fixture(scope="module")
def exported(sure_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    assert export_onnx(sure_bundle, folder / "model.onnx") < 1e-2
    assert export_program(sure_bundle, folder / "model.pt2") < 1e-2
    assert not list(folder.glob(".*"))
    return folder


def face_file(folder, suffix, **options):
    """A picture of waves, higher than wide, with a white border that the centre crop cuts off."""
    rows, columns = np.mgrid[0:150, 0:110]
    waves = [128 + 100 * np.sin(rows / a + columns / b) for a, b in ((9, 7), (15, -6), (4, 20))]
    path = folder / f"face{suffix}"
    inner = np.stack(waves, -1).astype(np.uint8)[8:-8, 8:-8]
    pixels = np.pad(inner, ((8, 8), (8, 8), (0, 0)), constant_values=255)
    Image.fromarray(pixels).save(path, **options)
    return path


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".jpg", {"exif": turned(), "quality": 90}), (".webp", {}), (".bmp", {})],
)
def test_the_onnx_file_alone_repeats_predict_from_a_pictures_bytes(
    sure_bundle, exported, tmp_path, suffix, options
):
    """By no more than its metadata, onnxruntime and a decoder."""
    path = face_file(tmp_path, suffix, **options)
    (frame,) = read_media(path)
    (expected,) = predict_frame(sure_bundle, frame, whole_picture)

    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    (described,) = session.get_inputs()
    assert (described.name, described.type) == ("images", "tensor(uint8)")
    metadata = session.get_modelmeta().custom_metadata_map
    assert "upright" in metadata["input"]
    assert "uint8 (B, 3, height, width), of any size" in metadata["input"]
    with Image.open(path) as picture:
        pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    corrected, primary, confidence = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
    names = json.loads(metadata["class_names"])
    assert names[int(corrected[0].argmax())] == expected.label
    assert dict(zip(names, corrected[0], strict=True)) == pytest.approx(
        expected.corrected, abs=5e-4
    )
    assert dict(zip(names, primary[0], strict=True)) == pytest.approx(expected.primary, abs=5e-4)
    assert confidence[0] == pytest.approx(expected.confidence, abs=5e-4)

    # The same picture, resized by somebody who knows of no centre crop, would be another answer.
    (frame,) = read_media(path)
    naive = torch.nn.functional.interpolate(frame.picture[None].float(), (64, 64), mode="bilinear")
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STANDARD_DEVIATION))
    other = sure_bundle.model((naive / 255 - mean) / deviation).primary[0]
    assert (other - torch.from_numpy(primary[0])).abs().max() > 0.005  # ten times what is allowed


def test_the_exported_program_repeats_it_too(sure_bundle, exported, tmp_path):
    (frame,) = read_media(face_file(tmp_path, ".png"))
    (expected,) = predict_frame(sure_bundle, frame, whole_picture)
    files = {"class_names": "", "input": "", "done_in_the_graph": ""}
    program = torch.export.load(exported / "model.pt2", extra_files=files).module()
    corrected, _, _ = program(frame.picture[None])
    names = json.loads(files["class_names"])
    assert dict(zip(names, corrected[0].tolist(), strict=True)) == pytest.approx(
        expected.corrected, abs=5e-4
    )
    done = json.loads(files["done_in_the_graph"])
    assert (done["resize"], done["center_crop"]) == ([72, 72], [64, 64])


def test_exported_models_take_any_batch_of_any_size_and_nothing_else(exported):
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    for shape in ((1, 3, 64, 64), (7, 3, 20, 33), (2, 3, 500, 40)):
        corrected, primary, confidence = session.run(
            None, {"images": np.random.randint(0, 256, shape, np.uint8)}
        )
        assert corrected.shape == primary.shape == (shape[0], 3)
        assert confidence.shape == (shape[0],)
        assert np.isfinite(corrected).all()
    with pytest.raises(Exception, match=r"expected.*uint8"):
        session.run(None, {"images": np.zeros((1, 3, 64, 64), np.float32)})


@pytest.mark.parametrize("wrong_size", range(3))
def test_what_an_export_differs_by_is_the_most_over_all_pictures(bundle, wrong_size):
    module = ExportedFaces(bundle.model, 16).eval()
    naive = [0.0]

    def run(images):
        answers = [each.clone() for each in module(images)]
        if len(naive) - 1 == wrong_size:
            answers[1][0, 0] += 9e-5
        output = bundle.model(eval_transform(16)(images))
        expected = (output.corrected, output.primary, output.confidence)
        for answer, other in zip(answers, expected, strict=True):
            naive[-1] = max(naive[-1], *(answer - other).abs().flatten().tolist())
        naive.append(naive[-1])
        return answers

    assert check_parity(module, run, bundle) == pytest.approx(naive[-1])
    assert len(naive) == 4


@pytest.mark.parametrize("output", range(3))
@pytest.mark.parametrize("value", [2e-4, float("nan"), float("inf")])
def test_an_export_that_says_something_else_is_refused(bundle, output, value):
    """NaN in the last of the outputs was passed over: `max` of Python keeps what it had."""
    module = ExportedFaces(bundle.model, 16).eval()

    def run(images):
        answers = [each.clone() for each in module(images)]
        answers[output].view(-1)[-1] += value
        return answers

    with pytest.raises(RuntimeError, match=r"the exported model must agree to 0\.0001"):
        check_parity(module, run, bundle)


def with_probabilities(output, *, corrected, primary, **branches):
    """The output as if corrected and each branch had given these."""
    logs = {f"{name}_log_probs": probs.log() for name, probs in branches.items()}
    return output._replace(log_probs=corrected.log(), logits=primary.log(), **logs)


def test_the_deciding_branch_against_a_naive_loop(bundle):
    torch.manual_seed(1)
    output = bundle.model(3 * torch.randn(60, 3, 16, 16))
    output = with_probabilities(
        output,
        **{
            name: torch.randn(60, 3).mul(2).softmax(-1)
            for name in ("primary", "anchor", "attentive", "correction", "corrected")
        },
    )

    def confidence(probs):
        return 1 + float((probs * probs.log()).sum()) / float(torch.tensor(3.0).log())

    decisions = set()
    for row, decided in enumerate(deciding_branches(output)):
        c_l, c_t = confidence(output.primary[row]), confidence(output.correction[row])
        c_g, c_a = confidence(output.anchor[row]), confidence(output.attentive[row])
        k = int(output.corrected[row].argmax())
        decisions.add(decided)
        parts = {
            "primary": c_l / (c_l + c_t) * output.primary[row, k],
            "anchor": c_t / (c_l + c_t) * c_g / (c_g + c_a) * output.anchor[row, k],
            "attentive": c_t / (c_l + c_t) * c_a / (c_g + c_a) * output.attentive[row, k],
        }
        own = {name for name in parts if int(getattr(output, name)[row].argmax()) == k}
        assert decided == max(own, key=parts.get, default="all")
    assert decisions == {"primary", "anchor", "attentive", "all"}


def test_no_branch_decides_a_class_that_it_does_not_predict(bundle):
    """The primary branch gives most of the corrected class here, and predicts another one."""
    output = bundle.model(torch.randn(1, 3, 16, 16))
    primary, other = [0.46, 0.44, 0.1], [0.2, 0.5, 0.3]
    correction = torch.tensor([other])
    output = with_probabilities(
        output,
        primary=torch.tensor([primary]),
        anchor=correction,
        attentive=correction,
        correction=correction,
        corrected=torch.tensor([[0.35, 0.46, 0.19]]),
    )
    share = float(RF.fusion_weight(output.primary, output.correction))
    assert share * primary[1] > (1 - share) / 2 * other[1]
    (decided,) = deciding_branches(output)
    assert decided in ("anchor", "attentive")
    assert FacePrediction("", decided_by=decided).decision == f"decided by the {decided} branch"
    assert FacePrediction("", decided_by="all").decision == "decided by all branches together"


def test_a_model_without_correction_is_decided_by_its_head(bundle):
    output = bundle.model(torch.randn(2, 3, 16, 16))
    branches = ("anchor", "attentive", "correction")
    nothing = dict.fromkeys(f"{name}_log_probs" for name in branches)
    assert deciding_branches(output._replace(**nothing)) == ["primary", "primary"]


@pytest.fixture
def media_folder(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    Image.new("RGB", (20, 24), (200, 90, 40)).save(folder / "a.png")
    (folder / "b.jpg").write_bytes(b"\xff\xd8 no image")
    (folder / "notes.txt").write_text("not looked at")
    with av.open(str(folder / "c.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in range(0, 250, 10):
            pixels = np.full((32, 32, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (folder / "d.mp4").write_bytes(b"no video")
    return folder


def test_a_folder_of_images_and_videos_is_predicted_and_damage_is_told(
    bundle, media_folder, tmp_path
):
    predictions = [
        each
        for frame in read_media(media_folder)
        for each in predict_frame(bundle, frame, whole_picture)
    ]
    assert [each.name for each in predictions] == [
        *("a.png", "b.jpg", "c.mp4 @ 0.00 s", "c.mp4 @ 1.00 s", "c.mp4 @ 2.00 s", "d.mp4"),
    ]
    assert [each.problem is not None for each in predictions] == [0, 1, 0, 0, 0, 1]
    assert "b.jpg" in predictions[1].problem
    assert "d.mp4 must be a video" in predictions[5].problem
    first = predictions[0]
    assert first.label == max(first.corrected, key=first.corrected.get)
    assert sum(first.primary.values()) == pytest.approx(1, abs=1e-5)
    assert tuple(first.box) == (0, 0, 20, 24)

    write_predictions(tmp_path, predictions)
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["label"] == first.label
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert float(rows[0]["corrected happy"]) == pytest.approx(first.corrected["happy"])
    assert rows[1]["problem"] == predictions[1].problem
    assert rows[1]["label"] == ""


def write_predictions(folder, predictions, class_names=NAMES):
    with prediction_files(folder, class_names) as write:
        for each in predictions:
            write([each])


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_are_on_the_disk_as_they_come_and_stay_if_it_stops(tmp_path, capsys):
    (tmp_path / "predictions.csv").write_text("of before")
    first = FacePrediction("a.png", label="sad", corrected={"sad": 1.0})
    with pytest.raises(KeyboardInterrupt), prediction_files(tmp_path, NAMES) as write:  # noqa: PT012
        write([first, FacePrediction("b.png", problem="no face was found")])
        (table,) = tmp_path.glob("predictions.part-*.csv")
        (full,) = tmp_path.glob("predictions.part-*.json")
        assert [row["name"] for row in read_csv(table)] == ["a.png", "b.png"]
        assert [row["name"] for row in json.loads(full.read_text())] == ["a.png", "b.png"]
        write([FacePrediction("c.png")])
        raise KeyboardInterrupt
    assert [row["name"] for row in read_csv(table)] == ["a.png", "b.png", "c.png"]
    assert len(json.loads(full.read_text())) == 3
    assert (tmp_path / "predictions.csv").read_text() == "of before"
    assert f"stopped; {table} has the predictions so far" in capsys.readouterr().out
    write_predictions(tmp_path, [first])
    assert [row["name"] for row in read_csv(tmp_path / "predictions.csv")] == ["a.png"]
    assert not list(tmp_path.glob("predictions.part-*"))


def test_what_gave_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="odd"), prediction_files(tmp_path, NAMES):
        raise ValueError("odd")
    assert not list(tmp_path.iterdir())
    write_predictions(tmp_path, [])
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    assert read_csv(tmp_path / "predictions.csv") == []


def test_results_take_their_place_as_all_files_do(tmp_path):
    """Links are followed, and permissions stay; what is no file is refused, and the rows stay."""
    target = tmp_path / "target.csv"
    target.write_text("of before")
    target.chmod(0o640)
    (tmp_path / "predictions.csv").symlink_to(target)
    write_predictions(tmp_path, [FacePrediction("a.png")])
    assert (tmp_path / "predictions.csv").is_symlink()
    assert [row["name"] for row in read_csv(target)] == ["a.png"]
    assert target.stat().st_mode & 0o777 == 0o640
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(ValueError, match=r"must be a regular file; got the named pipe"):
        write_predictions(tmp_path, [FacePrediction("b.png")])
    (table,) = tmp_path.glob("predictions.part-*.csv")
    assert [row["name"] for row in read_csv(table)] == ["b.png"]


HARMFUL_NAMES = (
    *(os.fsdecode(b"caf\xe9.png"), "\ud800", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)"),
    *(
        "\t=1",
        "\r=1",
        "\n=1",
        "'quoted",
        "\uff1d1",
        "a,b;c",
        'a"b',
        "\x1b[2J",
        "\x00",
        "\u202e",
        "顔",
    ),
)


def test_any_name_is_written_so_that_it_comes_back_and_harms_no_spreadsheet(tmp_path):
    write_predictions(
        tmp_path,
        [FacePrediction(name, label=name, problem=name) for name in HARMFUL_NAMES],
        class_names=HARMFUL_NAMES,
    )
    rows = read_csv(tmp_path / "predictions.csv")
    assert len(rows) == len(HARMFUL_NAMES)
    for row, name in zip(rows, HARMFUL_NAMES, strict=True):
        for cell in (row["name"], row["label"], row["problem"]):
            assert cell[:1] not in set("=+-@\t\r\n\uff1d")
            assert (
                cell.removeprefix("'")
                == name.removeprefix("'").encode("utf-8", "backslashreplace").decode()
                or cell == "''quoted"
            )
    for row, name in zip(
        json.loads((tmp_path / "predictions.json").read_text()), HARMFUL_NAMES, strict=True
    ):
        assert row["name"] == name


def test_what_is_printed_commands_no_terminal(capsys):
    say(" ".join(HARMFUL_NAMES).replace("\n", "") + "\nfile: é")
    printed = capsys.readouterr().out
    assert printed.endswith("\nfile: é\n")
    assert all(each.isprintable() for each in printed.replace("\n", ""))
    assert "\\udce9" in printed
    assert "\\x1b[2J" in printed
    assert printable("a\nb\\n") == "a\\nb\\n"


def test_a_terminal_of_few_letters_ends_no_run(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    say("顔")
    assert written.getvalue() == b"\\u9854\n"


def test_a_video_without_frames_is_told(tmp_path):
    path = tmp_path / "empty.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    (frame,) = read_media(path)
    assert frame.picture is None
    assert "empty.mp4 must be a video" in frame.problem


def test_a_video_of_sound_alone_is_told(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (frame,) = read_media(path)
    assert "sound.mp4 must be a video" in frame.problem


def test_every_frame_of_a_video_can_be_read(media_folder):
    assert len(list(read_media(media_folder / "c.mp4", every_seconds=0))) == 25


def test_a_video_is_turned_as_it_asks_for(media_folder):
    """By a quarter to the right: what was above is on the right."""
    path = media_folder / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:16] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # of the matrix in a track's header
    content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    (frame,) = read_media(path)
    assert frame.picture.shape == (3, 64, 32)
    left, right = frame.picture.float().mean((0, 1)).split(16)
    assert float(left.mean()) < 30 < 225 < float(right.mean())


def test_sources_that_do_not_exist_or_hold_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="an image, a video or a folder"):
        list(read_media(tmp_path / "missing.png"))
    with pytest.raises(FileNotFoundError, match="got none in"):
        list(read_media(tmp_path))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"must end in one of .*\.png.*a\.txt"):
        list(read_media(tmp_path / "a.txt"))


def test_no_face_is_told(bundle):
    frame = Frame("empty", torch.zeros(3, 9, 9, dtype=torch.uint8))
    assert predict_frame(bundle, frame, lambda picture: [])[0].problem == "no face was found"


def test_face_detection_says_what_it_needs(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="needs OpenCV: pip install"):
        yunet_detector(tmp_path / "yunet.onnx")


def test_face_detection_needs_its_weights(tmp_path):
    pytest.importorskip("cv2")
    with pytest.raises(FileNotFoundError, match=r"weights of YuNet; got .*missing\.onnx"):
        yunet_detector(tmp_path / "missing.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights of YuNet in ONNX; got .*bad\.onnx"):
        yunet_detector(tmp_path / "bad.onnx")


def test_found_faces_are_squares_of_the_whole_picture_largest_first(monkeypatch, tmp_path):
    """On a large picture, which is scaled down to 1280 pixels: by a half."""
    cv2 = pytest.importorskip("cv2")
    seen = []

    class Network:
        def setInputSize(self, size):  # noqa: N802 - OpenCV's own name
            seen.append(size)

        def detect(self, pixels):
            seen.append(pixels)
            small, large = [600, 100, 40, 60], [100, 50, 100, 80]
            outside = [-90, -90, 20, 20]
            rows = [[*box, *[0] * 10, 0.9] for box in (small, outside, large)]
            return 1, torch.tensor(rows, dtype=torch.float32).numpy()

    made = type("Made", (), {"create": staticmethod(lambda *arguments: Network())})
    monkeypatch.setattr(cv2, "FaceDetectorYN", made)
    (tmp_path / "yunet.onnx").write_bytes(b"weights")
    detect = yunet_detector(tmp_path / "yunet.onnx")
    picture = torch.zeros(3, 1000, 2560, dtype=torch.uint8)
    picture[0] = 200  # red
    large, small = [200, 100, 400, 260], [1200, 200, 1280, 320]
    expected = [square_around(box, 1000, 2560) for box in (large, small)]
    assert detect(picture) == expected
    assert seen[1] == (1280, 500)
    assert seen[2].shape == (500, 1280, 3)
    assert seen[2][0, 0].tolist() == [0, 0, 200], "OpenCV has blue first"


def test_a_box_becomes_a_square_within_the_picture():
    assert square_around([40, 40, 60, 80], 200, 200) == (24, 34, 76, 86)
    assert square_around([0, 0, 60, 80], 90, 70) == (0, 0, 70, 90)


@pytest.mark.parametrize("balancing", ["robust", "paper"])
def test_a_report_needs_no_other_file(tmp_path, balancing):
    recipe = tiny_recipe(recipe={"base": balancing, "num_anchors": 2, "logit_adjustment": False})
    save_bundle(tmp_path / "model.safetensors", build_model(recipe, 3), recipe, NAMES)
    evaluation = report_on(load_bundle(tmp_path), synthetic_table(), tmp_path).evaluation
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|<script|@import|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 10  # two figures, eight faces
    assert all(source.startswith("data:image/") for source in sources)
    assert f"{evaluation.corrected.accuracy:.1f} %" in page
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["corrected"]["kl"] == pytest.approx(evaluation.corrected.kl)


def test_one_face_makes_a_report(tmp_path, bundle):
    report_on(bundle, synthetic_table().select(torch.tensor([4])), tmp_path)
    assert not (tmp_path / "figures").exists()  # one point has no projection
    assert "No better than a guess." in (tmp_path / "report.html").read_text(encoding="utf-8")
