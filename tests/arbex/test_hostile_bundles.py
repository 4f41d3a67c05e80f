"""Models of the application that nobody trained, with a valid digest: refused, at once.

`ARBEX_BUNDLES=300 pytest tests/arbex/test_hostile_bundles.py` tries 300 of them.
"""

import contextlib
import json
import math
import os
import re
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("pydantic", reason="the application needs the extra `arbex`")

from tiny_training import tiny_recipe

from examples.arbex.face_model import build_model
from examples.arbex.model_bundle import LONGEST_HEADER, ModelBundle, load_bundle, save_bundle
from reliability_balance.checkpoint import tensor_file

# A tenth of a second on a quiet machine; much beside other work, which slows a processor down.
SECONDS, KIBIBYTES = 5.0, 200 * 1024
EXAMPLES = int(os.environ.get("ARBEX_BUNDLES", "60"))
NO_RESET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
ENCODERS = {
    "small_cnn": {"name": "small_cnn", "options": {"width": 4}},
    "timm": {"name": "timm", "options": {"name": "test_vit"}},
}


@dataclass
class Forgery:
    """What a file is made of; its digest is made last, and is right."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    edit_note: Callable[[str], str] = lambda text: text
    edit_file: Callable[[bytes], bytes] = lambda content: content
    digest: Any = None
    size: int | None = None

    def write(self, path: Path) -> None:
        note = self.edit_note(json.dumps(self.header))
        digest = tensor_file._digest(note, self.tensors) if self.digest is None else self.digest
        metadata = {tensor_file.CONFIG_KEY: note, tensor_file.DIGEST_KEY: digest}
        content = safetensors.torch.save(self.tensors, metadata)
        path.write_bytes(self.edit_file(content))
        if self.size is not None:
            os.truncate(path, self.size)  # a hole, which takes no room on the disk


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each encoder."""
    paths = {}
    for name, encoder in ENCODERS.items():
        recipe = tiny_recipe(encoder=encoder, recipe={"num_anchors": 2, "delta": 0.5})
        paths[name] = tmp_path_factory.mktemp("whole") / f"{name}.safetensors"
        save_bundle(paths[name], build_model(recipe, 3), recipe, ("angry", "happy", "sad"))
        load_bundle(paths[name])  # what is imported by the first load is not counted below
    with contextlib.suppress(ValueError):  # nor what the first failure imports
        other = forgery_of(paths["small_cnn"])
        config_of(other)["encoder"] = {"name": "torchvision", "options": {"name": "resnet18"}}
        other.write(paths["small_cnn"].parent / "other.safetensors")
        load_bundle(paths["small_cnn"].parent / "other.safetensors")
    return paths


def forgery_of(path: Path) -> Forgery:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata[tensor_file.CONFIG_KEY])
    return Forgery(safetensors.torch.load(content), header)


def config_of(forgery: Forgery) -> dict[str, Any]:
    recipe: dict[str, Any] = forgery.header["preprocessing"]["recipe"]
    return recipe


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value lies, those within others too."""
    if path:
        yield path
    for key, value in content.items() if isinstance(content, dict) else ():
        yield from places(value, (*path, key))


def get(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def put(content: Any, path: tuple[Any, ...], value: Any) -> None:
    get(content, path[:-1])[path[-1]] = value


def wrong_type(draw: st.DrawFn, forgery: Forgery) -> None:
    junk = [[3], {"a": 1}, [[]], math.nan, math.inf, -math.inf, 10**400, -(10**400)]
    put(
        forgery.header,
        draw(st.sampled_from(list(places(forgery.header)))),
        draw(st.sampled_from(junk)),
    )


def wrong_size(draw: st.DrawFn, forgery: Forgery) -> None:
    recipe = config_of(forgery)
    sizes = [1, 3, 10**6, 10**9, 10**12, 2**62, 2**63, 10**30, -1, -(2**62)]
    if draw(st.booleans()):
        recipe["recipe"]["num_anchors"] = draw(st.sampled_from([0, *sizes]))
    else:
        recipe["encoder"]["options"]["width"] = draw(st.sampled_from([0, *sizes]))
        recipe["encoder"]["name"] = "small_cnn"
        recipe["encoder"]["options"].pop("name", None)


def other_encoder(draw: st.DrawFn, forgery: Forgery) -> None:
    """Large models and large images of small ones, of which nothing is in the file."""
    sizes = st.sampled_from([-16, 0, 1, 32, 1024, 2**16, 16 * 10**6, 16 * 10**12, 2**63])
    poster = st.sampled_from(["poster_v2_tiny", "poster_v2_small", "poster_v2_base"])
    options = st.one_of(
        st.builds(lambda size: {"image_size": size}, sizes),
        st.builds(lambda size: {"reduction_dim": size}, sizes),
        st.just({"landmark_branch": {}}),
        st.just({"gradient_checkpointing": True, "train_landmarks": True}),
    )
    of_timm = ["vit_gigantic_patch14_224", "efficientnet_l2", "test_vit", "", "no/such", "a\0b"]
    of_timm += ["hf-hub:a/b", "local-dir:/etc", "\x1b[2J", "\ud800", "x" * 10**4, "x" * 10**6]
    of_torchvision = ["regnet_y_128gf", "vit_h_14", "resnet18", "inception_v3", "swin_v2_b", "?"]
    config_of(forgery)["encoder"] = draw(
        st.one_of(
            st.builds(lambda name, options: {"name": name, "options": options}, poster, options),
            st.builds(
                lambda name, channels: {
                    "name": "timm",
                    "options": {"name": name, "image_channels": channels},
                },
                st.sampled_from(of_timm),
                st.sampled_from([0, -1, 1, 10**9, 2**62]),
            ),
            st.builds(
                lambda name, tokens: {
                    "name": "torchvision",
                    "options": {"name": name, "tokens": tokens},
                },
                st.sampled_from(of_torchvision),
                st.booleans(),
            ),
            st.builds(
                lambda name: {"name": name},
                st.sampled_from(["os.system", "SmallCNN", "", "__class__", "a\nb", "\ud800", "é"]),
            ),
        )
    )


def surplus_key(draw: st.DrawFn, forgery: Forgery) -> None:
    found = [path for path in places(forgery.header) if isinstance(get(forgery.header, path), dict)]
    path = draw(st.sampled_from([(), *(each for each in found if each[0] == "preprocessing")]))
    names = ["more", "__class__", "self", "", "a.b", "\ud800", "\x1b[2J", "a\0b", "device"]
    value = draw(st.sampled_from([None, 3, "x", {}, []]))
    get(forgery.header, path)[draw(st.sampled_from(names))] = value


def missing_key(draw: st.DrawFn, forgery: Forgery) -> None:
    """Keys of a recipe may be missing: each has a default."""
    found = [(name,) for name in forgery.header]
    inner = [("preprocessing", "recipe"), ("preprocessing", "recipe", "encoder")]
    path = draw(st.sampled_from([*found, *inner, (*inner[1], "name")]))
    del get(forgery.header, path[:-1])[path[-1]]


def wrong_names(draw: st.DrawFn, forgery: Forgery) -> None:
    names: list[Any] = [["a", "a", "b"], ["a", "b"], ["a"], [], list("abcd"), "abc", 3, None]
    names += [{"a": 1, "b": 2, "c": 3}, [1, 2, 3], ["a", "b", None], ["a", "b", " a\n"]]
    names += [["a", "b", ""], ["a", "b", "\u3000"], [["a"], ["b"], ["c"]], [True, False, "a"]]
    forgery.header["class_names"] = draw(st.sampled_from(names))


def wrong_rest(draw: st.DrawFn, forgery: Forgery) -> None:
    name, values = draw(
        st.sampled_from(
            [
                ("versions", [None, 3, [], "x", {"torch": 3}, {"torch": None}, {"a": ["b"]}]),
                ("format_version", [None, -3, 99, "3", [3], {}, 10**400]),
                ("recipe", [None, 3, "x", [], [1], {"": {}}, {"seed": -1}, {"seed": 2**32}]),
                ("num_fitted", [None, "x", [], {}, 0.5, True]),
                ("modules", [None, 3, "x", [], {}, {"model": {}}, {"other": {}}]),
            ]
        )
    )
    place = forgery.header if name in forgery.header else forgery.header["preprocessing"]
    place[name] = draw(st.sampled_from(values))


def wrong_values(draw: st.DrawFn, forgery: Forgery) -> None:
    names = sorted(each for each, value in forgery.tensors.items() if value.is_floating_point())
    name = draw(st.sampled_from(names))
    bad = [math.nan, math.inf, -math.inf]
    bad += [-1.0, -1e-30] if name.endswith("running_var") else []
    bad += [-1.0, 0.0] if name.endswith("class_prior") else []
    changed = forgery.tensors[name].clone()
    changed.view(-1)[draw(st.integers(0, changed.numel() - 1))] = draw(st.sampled_from(bad))
    forgery.tensors[name] = changed


def wrong_tensor(draw: st.DrawFn, forgery: Forgery) -> None:
    name = draw(st.sampled_from(sorted(forgery.tensors)))
    tensor = forgery.tensors[name]
    ways: list[Callable[[], Tensor]] = [
        lambda: tensor.unsqueeze(0),
        lambda: torch.zeros(0, 2**40),
        lambda: torch.zeros(0),
        lambda: tensor.to(torch.int16),
        lambda: tensor.to(torch.bool),
        lambda: tensor.to(torch.float64),
        lambda: tensor.to(torch.bfloat16),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.float8_e5m2),
        lambda: tensor.to(torch.int32) if tensor.is_floating_point() else tensor.float(),
        lambda: torch.cat([tensor.flatten(), tensor.flatten()]),
    ]
    forgery.tensors[name] = draw(st.sampled_from(ways))()


def lost_tensor(draw: st.DrawFn, forgery: Forgery) -> None:
    del forgery.tensors[draw(st.sampled_from(sorted(forgery.tensors)))]


def orphan(draw: st.DrawFn, forgery: Forgery) -> None:
    names = ["more", "", ".", "encoder", "model.more", "model.balancer.head", "a\0b", "\x1b[2J"]
    forgery.tensors[draw(st.sampled_from(names))] = torch.ones(draw(st.sampled_from([0, 2, 1000])))


def renamed(draw: st.DrawFn, forgery: Forgery) -> None:
    name = draw(st.sampled_from(sorted(forgery.tensors)))
    change = draw(st.sampled_from([str.upper, lambda text: f"model.{text}", lambda text: text[1:]]))
    forgery.tensors[change(name)] = forgery.tensors.pop(name)


def twice(draw: st.DrawFn, forgery: Forgery) -> None:
    """One name with two values, of which readers take the first or the last."""
    name = draw(st.sampled_from(["modules", "class_names", "recipe", "seed", "encoder", "delta"]))
    key = f'"{name}":'
    if draw(st.booleans()):
        forgery.edit_note = lambda text: text.replace(key, f"{key} 3, {key}", 1)
        return
    old = draw(st.sampled_from([b'"model.balancer.anchors":', b'"__metadata__":', b'"dtype":']))

    def edit(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        value = b"{}," if old != b'"dtype":' else b'"F32",'
        header = content[8 : 8 + length].replace(old, old + value + old, 1)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]

    forgery.edit_file = edit


def wrong_text(draw: st.DrawFn, forgery: Forgery) -> None:
    texts = ["", "null", "3", "[]", "{", '{"a": NaN}', "[" * 10**5, "{}", '"x"', "\0", "9" * 5000]
    text = draw(st.sampled_from(texts))
    forgery.edit_note = lambda _: text


def wrong_digest(draw: st.DrawFn, forgery: Forgery) -> None:
    forgery.digest = draw(st.sampled_from(["", "0" * 64, "3", "\x1b[2J"]))


def wrong_length(draw: st.DrawFn, forgery: Forgery) -> None:
    """Cut short, longer, or with another length of its header."""
    share = draw(st.floats(0, 0.999))
    more = draw(st.binary(min_size=1, max_size=100))
    length = draw(st.sampled_from([0, 1, 2**10, 2**31, 2**40, 2**63, 2**64 - 1]))
    ways: list[Callable[[bytes], bytes]] = [
        lambda content: content[: int(share * len(content))],
        lambda content: content + more,
        lambda content: more + content,
        lambda content: length.to_bytes(8, "little") + content[8:],
        lambda content: content[:8] + bytes(len(content) - 8),
    ]
    forgery.edit_file = draw(st.sampled_from(ways))


def wrong_listing(draw: st.DrawFn, forgery: Forgery) -> None:
    """A header of safetensors that its data are not in."""
    changes: list[tuple[str, Any]] = [
        *(("dtype", value) for value in ("F4", "F64", "", None, 3, [], {}, "x" * 1000)),
        *(("shape", value) for value in (None, 3, "x", {}, [[]], [-1], [2**62, 2**62], [1e400])),
        *(("shape", value) for value in ([2**63], [0, 2**62], [1] * 1000, ["1"], [True])),
        *(("data_offsets", value) for value in (None, [], [0], [8, 0], [0, 2**63], [-4, 4], "x")),
    ]
    name, value = draw(st.sampled_from(changes))

    def edit(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        listing = json.loads(content[8 : 8 + length])
        if name == "shape" and value == [0, 2**62]:
            listing["more"] = {"dtype": "F32", "shape": value, "data_offsets": [0, 0]}
        else:
            listing["model.balancer.anchors"][name] = value
        header = json.dumps(listing).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + length :]

    forgery.edit_file = edit


def huge_file(draw: st.DrawFn, forgery: Forgery) -> None:
    """Sizes that the file seems to have, since a hole in it takes no room."""
    size = draw(st.sampled_from([2**30, 2**34, 2**40]))
    if draw(st.booleans()):
        forgery.size = size
        return
    name = draw(st.sampled_from(["more", "model.balancer.anchors", "model.balancer.class_prior"]))

    def edit(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        listing = json.loads(content[8 : 8 + length])
        listing[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
        header = json.dumps(listing).encode()
        forgery.size = 8 + len(header) + size
        return len(header).to_bytes(8, "little") + header

    forgery.edit_file = edit


def deep(draw: st.DrawFn, forgery: Forgery) -> None:
    depth = draw(st.sampled_from([100, 900, 960, 980, 990, 1000, 2000, 10**5]))
    start, end = draw(st.sampled_from(["[]", ('{"a":', "}")]))
    value = start * depth + "3" + end * depth
    recipe = ("preprocessing", "recipe")
    places_of_it = [("versions",), ("class_names",), recipe, (*recipe, "seed")]
    places_of_it += [(*recipe, "encoder", "options", "name"), (*recipe, "data", "rendered")]
    put(forgery.header, draw(st.sampled_from(places_of_it)), "DEEP")
    forgery.edit_note = lambda text: text.replace('"DEEP"', value)


def many(draw: st.DrawFn, forgery: Forgery) -> None:
    """As much as a header has room for, or more."""
    room = draw(st.sampled_from([LONGEST_HEADER // 2, LONGEST_HEADER * 9 // 10, 2**23]))
    kind = draw(st.sampled_from(["lists", "objects", "names", "keys", "options", "tensors"]))
    header = forgery.header
    if kind in ("lists", "objects"):
        where = draw(st.sampled_from(["class_names", "versions", "preprocessing"]))
        header[where] = "MANY"
        part = {"lists": "[],", "objects": "{},"}[kind]
        forgery.edit_note = lambda text: text.replace('"MANY"', f"[{part * (room // 3)}3]")
    elif kind == "names":
        header["class_names"] = [str(number) for number in range(room // 12)]
    elif kind == "keys":
        config_of(forgery).update({str(number): 1 for number in range(room // 14)})
    elif kind == "options":
        config_of(forgery)["data"]["rendered"] = {str(number): 1 for number in range(3000)}
    else:
        names = (f"m{number}" for number in range(room // 60))
        # Written by hand, since safetensors takes seconds for them.
        listing = ",".join(
            f'"{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for name in names
        )

        def edit(content: bytes) -> bytes:
            length = int.from_bytes(content[:8], "little")
            text = content[8 : 8 + length].decode().rstrip()
            new = f"{text[:-1]},{listing}}}".encode()
            return len(new).to_bytes(8, "little") + new + content[8 + length :]

        forgery.edit_file = edit


MUTATIONS = [
    *(wrong_type, wrong_size, other_encoder, surplus_key, missing_key, wrong_names, wrong_rest),
    *(wrong_values, wrong_tensor, lost_tensor, orphan, renamed, twice, wrong_text, wrong_digest),
    *(wrong_length, wrong_listing, huge_file, deep, many),
]


def peak() -> int:
    """The most memory that this process had; from now on, where the system lets us begin anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    memory, start = peak(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on sizes of 0
        yield
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < KIBIBYTES


@pytest.mark.parametrize("name", ENCODERS)
def test_a_forgery_that_changes_nothing_is_loaded(wholes, name, tmp_path):
    path = tmp_path / "model.safetensors"
    forgery_of(wholes[name]).write(path)
    with within_limits():
        assert load_bundle(path).class_names == ("angry", "happy", "sad")


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=NO_RESET)
@given(data=st.data())
def test_hostile_bundles_are_refused(
    wholes: dict[str, Path], tmp_path: Path, data: st.DataObject
) -> None:
    forgery = forgery_of(wholes[data.draw(st.sampled_from(sorted(wholes)))])
    mutation = data.draw(st.sampled_from(MUTATIONS))
    mutation(data.draw, forgery)
    path = tmp_path / "model.safetensors"
    forgery.write(path)
    with within_limits(), pytest.raises(ValueError, match=re.escape(str(path))) as refusal:
        load_bundle(path)
    assert re.search("must|unknown key", str(refusal.value))
    assert len(str(refusal.value)) < 2**17


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([1e-320, 1e-300, 1e-6, 1e300, 2**53, 2**62])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.lists(st.text(st.characters(), min_size=1), min_size=2, max_size=4)


@settings(deadline=None, max_examples=max(EXAMPLES // 3, 1), suppress_health_check=NO_RESET)
@given(data=st.data(), junk=JUNK, names=NAMES)
def test_anything_anywhere_is_refused_or_a_model(
    wholes: dict[str, Path], tmp_path: Path, data: st.DataObject, junk: Any, names: list[str]
) -> None:
    forgery = forgery_of(wholes[data.draw(st.sampled_from(sorted(wholes)))])
    found = list(places(forgery.header))
    numbers = [each for each in found if isinstance(get(forgery.header, each), int | float)]
    put(forgery.header, data.draw(st.sampled_from(found) | st.sampled_from(numbers)), junk)
    if data.draw(st.booleans()):
        forgery.header["class_names"] = names
    if data.draw(st.booleans()):
        of_weights = [each for each in forgery.tensors if each.endswith(".weight")]
        name = data.draw(st.sampled_from(sorted(of_weights)))
        factor = data.draw(st.sampled_from([0.0, -1.0, 1e-30, 1e3, 1e30]))
        forgery.tensors[name] = forgery.tensors[name] * factor
    path = tmp_path / "model.safetensors"
    forgery.write(path)
    loaded: ModelBundle | None = None
    with within_limits(), contextlib.suppress(ValueError):
        loaded = load_bundle(path)
    if loaded is None:
        return
    assert list(loaded.class_names) == forgery.header["class_names"]
    side = 160 if "timm" in loaded.config.encoder.name else 16
    # Weights that are too large for 32 bits are refused where the model is used.
    with contextlib.suppress(ValueError), torch.no_grad():
        assert loaded.model(torch.zeros(2, 3, side, side)).corrected.isfinite().all()


@pytest.mark.parametrize("name", ["regnet_x_400mf", "swin_v2_t"])
@pytest.mark.parametrize("tokens", [False, True])
def test_models_of_torchvision_are_loaded(name, tokens, tmp_path):
    """RegNets read tensors while they are built, which the meta device does not have."""
    pytest.importorskip("torchvision")
    recipe = tiny_recipe(
        encoder={"name": "torchvision", "options": {"name": name, "tokens": tokens}}
    )
    model = build_model(recipe, 3)
    save_bundle(tmp_path / "model.safetensors", model, recipe, ("a", "b", "c"))
    found = load_bundle(tmp_path).model.state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
