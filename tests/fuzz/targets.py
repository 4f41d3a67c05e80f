"""Everything of the project that reads a file, with small valid files to begin from."""

import gzip
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import face_trees
import numpy as np
import torch
from fuzz.running import Read, Target
from idx_files import idx_bytes, write_mnist
from PIL import Image
from safetensors.torch import save
from tiny_training import tiny_recipe

from examples.arbex.configuration import dump_config, load_config
from examples.arbex.face_model import build_model
from examples.arbex.faces.image_sources import decode
from examples.arbex.model_bundle import load_bundle, save_bundle
from examples.arbex.readers.reading import FileDataset, read_faces
from examples.arbex.rendering.rendering_cache import cached_images
from examples.arbex.report.training_figures import read_history
from examples.arbex.serving.media import read_media
from examples.arbex.training.run_keeping import RESUME_KEYS, AtomicCheckpointIO
from examples.image_data import load_images, read_idx
from reliability_balance import ReliabilityBalancer, wrap
from reliability_balance.backbones.weights import read_weights
from reliability_balance.calibration import Abstention, PredictionSets, TemperatureScaling
from reliability_balance.checkpoint import describe
from reliability_balance.checkpoint import load as load_library_checkpoint
from reliability_balance.checkpoint import save as save_checkpoint
from reliability_balance.checkpoint.tensor_file import CONFIG_KEY, DIGEST_KEY
from reliability_balance.checkpoint.tensor_file import _digest as digest_of_checkpoint
from reliability_balance.labels import RefurbishedTargets

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

Prepare = Callable[[Path], tuple[Sequence[bytes], Read]]


def file_of(tree: Callable[[Path], Path], name: str, read: Callable[[Path], object]) -> Prepare:
    """One file of a tree; the rest of the tree stays as it is."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Read]:
        root = tree(folder / "data")
        path = root / name

        def read_one(content: bytes) -> None:
            path.write_bytes(content)
            read(root)

        return [path.read_bytes()], read_one

    return prepare


def faces_of(dataset: FileDataset) -> Callable[[Path], object]:
    return lambda root: list(read_faces(dataset, root).names)


def names_of(dataset: FileDataset, tree: Callable[[Path], Path]) -> Prepare:
    """The names of all files of a tree, a line each; the files hold one byte."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Read]:
        root = tree(folder / "data")
        files = sorted(path for path in root.rglob("*") if path.is_file())
        listing = b"\n".join(bytes(path.relative_to(root)) for path in files)
        contents = {bytes(path.relative_to(root)): path.read_bytes() for path in files}

        def read_one(content: bytes) -> None:
            shutil.rmtree(root)
            root.mkdir()
            for line in content.split(b"\n"):
                parts = [part for part in line.split(b"/") if part not in (b"", b".", b"..")]
                if not parts or b"\0" in line or max(map(len, parts)) > 255:
                    continue  # no file system has such names
                path = root.joinpath(*(part.decode(errors="surrogateescape") for part in parts))
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(contents.get(line, b"x"))
                except OSError:
                    continue  # a folder of that name is there already
            list(read_faces(dataset, root).names)

        return [listing], read_one

    return prepare


def whole_file(
    samples: Callable[[Path], Sequence[bytes]], suffix: str, read: Callable[[Path], object]
) -> Prepare:
    """A file that stands alone."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Read]:
        path = folder / f"file{suffix}"

        def read_one(content: bytes) -> None:
            path.write_bytes(content)
            read(path)

        return samples(folder), read_one

    return prepare


def part_of_file(
    samples: Callable[[Path], Sequence[bytes]],
    wrap: Callable[[bytes], bytes],
    suffix: str,
    read: Callable[[Path], object],
) -> Prepare:
    """A part of a file, whose container is made anew, so that its checksums do not catch all."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Read]:
        parts, read_file = whole_file(samples, suffix, read)(folder)
        return parts, lambda content: read_file(wrap(content))

    return prepare


def pictures(folder: Path) -> list[bytes]:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    forms = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM")
    made = [_saved(image, form) for form in forms]
    palette = image.convert("P")
    return [*made, *(_saved(palette, form) for form in ("PNG", "BMP", "TIFF"))]


def _saved(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def video(folder: Path) -> list[bytes]:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for value in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return [buffer.getvalue()]


def weights() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3, dtype=torch.half)}


def torch_saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


CHECKPOINTS = ({"state_dict": weights(), "epoch": 3}, {"model": weights(), "losses": [0.5, 0.25]})


def torch_files(folder: Path) -> list[bytes]:
    new = [torch_saved(content) for content in CHECKPOINTS]
    return [*new, *(torch_saved(c, _use_new_zipfile_serialization=False) for c in CHECKPOINTS)]


RESUME_POINT = dict.fromkeys(sorted(RESUME_KEYS), 1) | {"state_dict": weights()}


def resume_points(folder: Path) -> list[bytes]:
    return [torch_saved(RESUME_POINT)]


def resume_pickles(folder: Path) -> list[bytes]:
    return [_pickle_of(RESUME_POINT)]


def torch_pickles(folder: Path) -> list[bytes]:
    return [_pickle_of(content) for content in CHECKPOINTS]


def _pickle_of(content: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(torch_saved(content))) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


def with_pickle(pickled: bytes) -> bytes:
    """An archive as torch writes it, around another pickle."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_saved(CHECKPOINTS[0]))) as whole,
        zipfile.ZipFile(buffer, "w") as made,
    ):
        for name in whole.namelist():
            made.writestr(name, pickled if name.endswith("data.pkl") else whole.read(name))
    return buffer.getvalue()


def safetensors_header(folder: Path) -> list[bytes]:
    whole = save(weights())
    return [whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]]]


def with_header(header: bytes) -> bytes:
    """A safetensors file with another header, of the right length."""
    whole = save(weights())
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    return struct.pack("<Q", len(header)) + header + whole[start:]


RECIPE = tiny_recipe()


def bundle(folder: Path) -> list[bytes]:
    path = folder / "model.safetensors"
    torch.manual_seed(0)
    save_bundle(path, build_model(RECIPE, 2), RECIPE, ("calm", "cross"))
    return [path.read_bytes()]


def bundle_note(folder: Path) -> list[bytes]:
    return [config_of(bundle(folder)[0])]


def with_note(note: bytes) -> bytes:
    return with_config(note, MODEL)


MODEL = {f"model.{name}": value for name, value in build_model(RECIPE, 2).state_dict().items()}


def checkpoint(folder: Path) -> list[bytes]:
    path = folder / "checkpoint.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, ReliabilityBalancer(4, 2, num_anchors=1), class_names=("a", "b"))
    return [path.read_bytes()]


def checkpoint_config(folder: Path) -> list[bytes]:
    return [config_of(checkpoint(folder)[0])]


def config_of(whole: bytes) -> bytes:
    size = struct.unpack("<Q", whole[:8])[0]
    text: str = json.loads(whole[8 : 8 + size])["__metadata__"][CONFIG_KEY]
    return text.encode()


BALANCER = {
    f"model.{name}": value
    for name, value in ReliabilityBalancer(4, 2, num_anchors=1).state_dict().items()
}


def with_config(config: bytes, tensors: dict[str, torch.Tensor] = BALANCER) -> bytes:
    """A checkpoint whose settings are others, with the digest of those."""
    text = config.decode(errors="replace")
    metadata = {CONFIG_KEY: text, DIGEST_KEY: digest_of_checkpoint(text, tensors)}
    return save(tensors, metadata=metadata)


COMPANIONS = {
    "targets": RefurbishedTargets(5, 2),
    "scaling": TemperatureScaling(),
    "sets": PredictionSets(),
    "abstention": Abstention(),
}


def checkpoint_with_extras(folder: Path) -> list[bytes]:
    path = folder / "extras.safetensors"
    model = ReliabilityBalancer(4, 2, num_anchors=1)
    save_checkpoint(path, model, preprocessing={"mean": [0.5, 0.25]}, extras=COMPANIONS)
    return [path.read_bytes()]


def settings_with_extras(folder: Path) -> list[bytes]:
    return [config_of(checkpoint_with_extras(folder)[0])]


def with_extras(config: bytes) -> bytes:
    """The same with other settings, and the digest of those."""
    states = {"model": ReliabilityBalancer(4, 2, num_anchors=1), **COMPANIONS}
    tensors = {
        f"{role}.{name}": value
        for role, module in states.items()
        for name, value in module.state_dict().items()
    }
    return with_config(config, tensors)


def wrapped() -> torch.nn.Module:
    """A classifier of one's own, which a checkpoint can fill but not build."""
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return wrap(layers, num_anchors=1)


WRAPPED = wrapped()
WRAPPED_STATE = {f"model.{name}": value.clone() for name, value in WRAPPED.state_dict().items()}


def settings_of_wrapped(folder: Path) -> list[bytes]:
    path = folder / "wrapped.safetensors"
    save_checkpoint(path, WRAPPED, class_names=("a", "b"))
    return [config_of(path.read_bytes())]


def fill_wrapped(path: Path) -> None:
    """What is refused leaves the model as it was."""
    try:
        load_library_checkpoint(path, WRAPPED)
    except ValueError:
        for name, value in WRAPPED.state_dict().items():
            assert torch.equal(value, WRAPPED_STATE[f"model.{name}"]), f"{name} was changed"
        raise


def old_checkpoint(folder: Path) -> list[bytes]:
    """Of format version 1, which has no digest."""
    return [(FIXTURES / "checkpoint_format_1.safetensors").read_bytes()]


def read_overrides(content: bytes) -> object:
    lines = content.decode(errors="replace").split("\n")
    return load_config("quick", [line for line in lines if line])


def overrides(folder: Path) -> tuple[Sequence[bytes], Read]:
    """A line each, as `--set` has them on the command line."""
    values = (
        *("optimization.epochs=3", "data.splits={seed: 1}", "recipe.token_attention=off"),
        *(
            "recipe.label_smoothing=0.1",
            "recipe.refurbishes_labels=false",
            "optimization.learning_rate=1e-3",
        ),
    )
    texts = [value.encode() for value in values]
    return [b"\n".join(texts[:3]), b"\n".join(texts[3:])], read_overrides


def history(folder: Path) -> list[bytes]:
    return [b"epoch,train_loss,validation_accuracy\r\n1,0.9,0.5\r\n2,0.5,0.75\r\n"]


def read_images(path: Path) -> object:
    return [frame.picture for frame in read_media(path)]


def rendering_cache(name: str) -> Prepare:
    """A cache that is damaged is rendered anew, so nothing is refused."""
    images = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(1, 3, 8, 8)

    def prepare(folder: Path) -> tuple[Sequence[bytes], Read]:
        def look() -> None:
            found = cached_images(folder, {"count": 1}, lambda: images)
            assert torch.equal(found[0], images[0]), "a damaged picture was taken from the cache"

        look()
        (path,) = folder.glob(name)

        def read_one(content: bytes) -> None:
            path.write_bytes(content)
            look()

        return [path.read_bytes()], read_one

    return prepare


def load_checkpoint(path: Path) -> object:
    return AtomicCheckpointIO().load_checkpoint(path)


AFF_FILE = f"{face_trees.ANNOTATIONS}/Train_Set/1-30-1280x720.txt"

TARGETS = (
    Target("raf-db, list", file_of(face_trees.raf_db, face_trees.RAF_LIST, faces_of("raf-db"))),
    Target("raf-db, names", names_of("raf-db", face_trees.raf_db)),
    Target("aff-wild2, codes", file_of(face_trees.aff_wild2, AFF_FILE, faces_of("aff-wild2"))),
    Target("aff-wild2, names", names_of("aff-wild2", face_trees.aff_wild2)),
    Target(
        "jaffe, ratings",
        file_of(face_trees.jaffe, "jaffe/A_README_FIRST.txt", faces_of("jaffe")),
    ),
    Target("jaffe, names", names_of("jaffe", face_trees.jaffe)),
    Target("ferg-db, names", names_of("ferg-db", face_trees.ferg_db)),
    Target(
        "fer-plus, label.csv",
        file_of(face_trees.fer_plus_folders, "FER2013Train/label.csv", faces_of("fer-plus")),
    ),
    Target(
        "fer-plus, fer2013new.csv",
        file_of(face_trees.fer_plus_tables, "fer2013new.csv", faces_of("fer-plus")),
    ),
    Target(
        "fer-plus, fer2013.csv",
        file_of(face_trees.fer_plus_tables, "fer2013.csv", faces_of("fer-plus")),
    ),
    Target("affectnet, names", names_of("affectnet", face_trees.affectnet_folders)),
    Target(
        "affectnet, annotation",
        file_of(
            face_trees.affectnet_annotations,
            "train_set/annotations/3_exp.npy",
            faces_of("affectnet"),
        ),
    ),
    Target("class folders, names", names_of("folders", face_trees.class_folders)),
    Target("csv table", file_of(face_trees.csv_table, "faces.csv", faces_of("csv"))),
    Target("image file", whole_file(pictures, ".png", decode)),
    Target("image to predict", whole_file(pictures, ".jpg", read_images)),
    Target("video", whole_file(video, ".mp4", read_images)),
    Target(
        "IDX file",
        whole_file(
            lambda folder: [idx_bytes(np.ones((4, 3, 3))), idx_bytes(np.ones(5))], "-idx", read_idx
        ),
    ),
    Target(
        "IDX file, gzip",
        whole_file(lambda folder: [gzip.compress(idx_bytes(np.ones((4, 3, 3))))], ".gz", read_idx),
    ),
    Target(
        "IDX labels of a set",
        file_of(
            lambda root: write_mnist(root, zipped=False, count=6),
            "train-labels-idx1-ubyte",
            load_images,
        ),
    ),
    Target(
        "folder of images",
        file_of(
            face_trees.class_folders, "calm/0.png", lambda root: load_images(root, image_size=8)
        ),
    ),
    Target(
        "recipe",
        whole_file(
            lambda folder: [
                dump_config(RECIPE).encode(),
                b"data:\n  dataset: raf-db\n  root: faces\noptimization: {epochs: 3}\n",
            ],
            ".yaml",
            lambda path: load_config(str(path)),
        ),
    ),
    Target("recipe, overrides", overrides, beginnings=("--set",)),
    Target("weights, torch file", whole_file(torch_files, ".pt", read_weights)),
    Target("weights, pickle", part_of_file(torch_pickles, with_pickle, ".pt", read_weights)),
    Target(
        "weights, safetensors",
        whole_file(lambda folder: [save(weights())], ".safetensors", read_weights),
    ),
    Target(
        "weights, safetensors header",
        part_of_file(safetensors_header, with_header, ".safetensors", read_weights),
    ),
    Target("model", whole_file(bundle, ".safetensors", load_bundle)),
    Target("model, note", part_of_file(bundle_note, with_note, ".safetensors", load_bundle)),
    Target("checkpoint", whole_file(checkpoint, ".safetensors", load_library_checkpoint)),
    Target(
        "checkpoint, settings",
        part_of_file(checkpoint_config, with_config, ".safetensors", load_library_checkpoint),
    ),
    Target(
        "checkpoint, settings of extras",
        part_of_file(settings_with_extras, with_extras, ".safetensors", load_library_checkpoint),
    ),
    Target(
        "checkpoint, settings for a model",
        part_of_file(
            settings_of_wrapped,
            lambda config: with_config(config, WRAPPED_STATE),
            ".safetensors",
            fill_wrapped,
        ),
    ),
    Target(
        "checkpoint, format 1",
        whole_file(old_checkpoint, ".safetensors", load_library_checkpoint),
    ),
    Target(
        "checkpoint, description",
        part_of_file(checkpoint_config, with_config, ".safetensors", describe),
    ),
    Target("resume point", whole_file(resume_points, ".ckpt", load_checkpoint)),
    Target(
        "resume point, pickle",
        part_of_file(resume_pickles, with_pickle, ".ckpt", load_checkpoint),
    ),
    Target("history", whole_file(history, ".csv", read_history)),
    Target("cache of renderings, pictures", rendering_cache("*.npy")),
    Target("cache of renderings, note", rendering_cache("*.json")),
)
