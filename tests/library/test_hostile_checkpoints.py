"""Files with a valid digest that nobody saved: each is refused, at once and in little memory."""

import contextlib
import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reliability_balance import ReliabilityBalancer, wrap
from reliability_balance.calibration import (
    Abstention,
    BranchTemperatures,
    ClassPredictionSets,
    Familiarity,
    GroupPredictionSets,
    PredictionSets,
    SelectionScore,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
)
from reliability_balance.checkpoint import Checkpoint, describe, load, save, tensor_file
from reliability_balance.labels import RefurbishedTargets

# A tenth of a second on a quiet machine; much beside other work, which slows a processor down.
SECONDS, KIBIBYTES = 5.0, 200 * 1024
Content = tuple[dict[str, Tensor], dict[str, Any]]
NO_RESET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def forge(path: Path, tensors: dict[str, Tensor], text: str) -> None:
    """Write what :func:`save` would not, with the digest that it would have."""
    metadata = {"reliability_balance": text, "sha256": tensor_file._digest(text, tensors)}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def whole(path: Path) -> Content:
    """A balancer with an extra of each kind."""
    extras = {
        "temperature": TemperatureScaling(),
        "vector": VectorScaling(3),
        "top": TopLabelScaling(),
        "branches": BranchTemperatures(correction_weight=0.5),
        "sets": PredictionSets(0.8),
        "class_sets": ClassPredictionSets(3, score="raps", penalty=0.1, free_ranks=1),
        "group_sets": GroupPredictionSets(2),
        "abstention": Abstention(0.3),
        "familiarity": Familiarity(6, num_references=5),
        "selection": SelectionScore(6, 3, num_references=25),
        "targets": RefurbishedTargets(20, 3, warmup=2, held_back=0.2),
        "other": ReliabilityBalancer(4, 2, num_anchors=1, attention="off", head=None),
    }
    for name in ("sets", "class_sets", "group_sets", "abstention"):
        extras[name].threshold.fill_(0.5)
    model = ReliabilityBalancer(6, 3, num_anchors=2, head="mlp", attention="tokens")
    model.class_prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
    save(
        path,
        model,
        class_names=["a", "b", "c"],
        preprocessing={"mean": [0.5]},
        extras=extras,
    )
    return tensor_file.read(path)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    whole(path)
    load(path)  # what is imported by the first load is not counted below
    return path


def places(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a configuration lies."""
    if path:
        yield path
    items = config.items() if isinstance(config, dict) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def put(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = value


def get(config: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        config = config[key]
    return config


def all_settings(config: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        ("modules", role, "parts", part, name)
        for role, module in config["modules"].items()
        for part, named in module["parts"].items()
        for name in named
    ]


def wrong_size(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = ("num_samples", "num_classes", "num_anchors", "embedding_dim", "head_dim", "num_groups")
    found = [path for path in all_settings(config) if path[-1] in names]
    # The balancer without head and attention has no tensor as wide as its heads.
    path = draw(st.sampled_from([each for each in found if each[1] != "other"]))
    right = get(config, path)
    sizes = st.sampled_from([10**9, 10**12, 2**62, 10**30, 0, -1, right + 1])
    put(config, path, draw(sizes))


def wrong_type(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    may_be_none = ("head", "momentum", "penalty", "free_ranks")
    found = [path for path in all_settings(config) if path[-1] not in may_be_none]
    junk = [None, [], {}, [3], "three", {"a": 1}, 1e400, -math.inf, math.nan, 10**400]
    put(config, draw(st.sampled_from(found)), draw(st.sampled_from(junk)))


def unknown_setting(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    role = draw(st.sampled_from(sorted(config["modules"])))
    names = ["validate_args", "dtype", "class_prior", "__class__", "self", "", "scale", "device"]
    value = draw(st.sampled_from([False, None, 3, "x"]))
    config["modules"][role]["parts"][""][draw(st.sampled_from(names))] = value


def unknown_key(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    found = [(), ("modules", "model"), ("modules", "model", "parts")]
    get(config, draw(st.sampled_from(found)))["more"] = draw(st.sampled_from([None, {}, 3]))


def missing_key(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    optional = {*("recipe", "head", "metric", "delta", "attention", "num_heads", "head_dim")}
    optional |= {"correction_weight", "momentum", "temperature", "noise_temperature", "warmup"}
    optional |= {"prior_count", "held_back", "held_for", "memory", "annotator_prior"}
    optional |= {"num_anchors", "num_annotators", "mean", "coverage", "max_risk"}
    optional |= {"score", "penalty", "free_ranks"}
    found = [
        path
        for path in places(config)
        if path[-1] not in optional and path[0] not in ("versions", "preprocessing")
    ]
    path = draw(st.sampled_from(found))
    del get(config, path[:-1])[path[-1]]


def wrong_kind(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    role = draw(st.sampled_from(sorted(config["modules"])))
    kinds = ["Module", "Linear", "WrappedClassifier", "os.system", "", "TemperatureScaling", 3]
    module = config["modules"][role]
    kind = draw(st.sampled_from([each for each in kinds if each != module["class"]]))
    where = draw(st.sampled_from(["class", "part", "both"]))
    if where != "part":
        module["class"] = kind
    if where != "class":
        module["parts"][""]["class"] = kind


def wrong_names(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = [["a", "a", "b"], ["a", "b"], [], list("abcd"), "abc", 3, {"a": 1}, [1, 2, 3], [None]]
    config["class_names"] = draw(st.sampled_from(names))


def wrong_part(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    values = [None, 3, "x", [], [1], {}, {"a": 3}]
    found = [path for path in places(config) if path[0] == "modules" and len(path) < 5]
    put(config, draw(st.sampled_from(found)), draw(st.sampled_from(values)))


def wrong_rest(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    name, values = draw(
        st.sampled_from(
            [
                ("versions", [None, 3, [], {"torch": 3}, {"torch": None}]),
                ("preprocessing", [3, "x", [1], {"mean": math.nan}, {"mean": math.inf}]),
                ("format_version", [None, 0, -1, 99, True, "2", 2.0, [], {}]),
            ]
        )
    )
    config[name] = draw(st.sampled_from(values))


def wrong_role(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = ["", "a.b", "../x", "two words", "1", "a\0b"]
    config["modules"][draw(st.sampled_from(names))] = config["modules"]["sets"]


def wrong_values(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point())
    name = draw(st.sampled_from(names))
    bad = [-math.inf, *([] if name.endswith("threshold") else [math.inf])]
    # A threshold of NaN alone is not fitted yet.
    bad += [] if name.endswith("threshold") and tensors[name].numel() == 1 else [math.nan]
    bad += [0.0, -1.0] if name.endswith(("temperature", "temperatures", "class_prior")) else []
    changed = tensors[name].clone()
    place = draw(st.integers(0, changed.numel() - 1))
    changed.view(-1)[place] = draw(st.sampled_from(bad))
    tensors[name] = changed


def wrong_tensor(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    ways: list[Callable[[], Tensor | None]] = [
        lambda: None,
        lambda: tensor.unsqueeze(0),
        lambda: torch.zeros(0, 2**40),
        lambda: tensor.to(torch.int16),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.float8_e5m2),
        lambda: torch.cat([tensor.flatten(), tensor.flatten()]),
    ]
    changed = draw(st.sampled_from(ways))()
    if changed is None:
        del tensors[name]
    else:
        tensors[name] = changed


def orphan(draw: st.DrawFn, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    names = [
        "nobody.weight",
        "weight",
        "",
        ".",
        "model",
        "modelx.anchors",
        "sets.more",
        "model.a.b",
    ]
    tensors[draw(st.sampled_from(names))] = torch.ones(2)


MUTATIONS = [
    *(wrong_size, wrong_type, unknown_setting, unknown_key, missing_key, wrong_kind, wrong_names),
    *(wrong_part, wrong_rest, wrong_role, wrong_values, wrong_tensor, orphan),
]


def refuse(path: Path, **options: Any) -> None:
    """Load, and hold the refusal to its limits."""
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"`(path|model|class_names|extras|\w+)` must"):
        load(path, **options)
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < KIBIBYTES


@settings(deadline=None, max_examples=300, suppress_health_check=NO_RESET)
@given(data=st.data())
def test_hostile_checkpoints_are_refused(
    content: Path, tmp_path: Path, data: st.DataObject
) -> None:
    tensors, config = tensor_file.read(content)
    mutation = data.draw(st.sampled_from(MUTATIONS))
    mutation(data.draw, tensors, config)
    path = tmp_path / "model.safetensors"
    forge(path, tensors, json.dumps(config))
    refuse(path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=100, suppress_health_check=NO_RESET)
@given(data=st.data(), junk=JUNK)
def test_anything_anywhere_is_refused_or_a_model(
    content: Path, tmp_path: Path, data: st.DataObject, junk: Any
) -> None:
    tensors, config = tensor_file.read(content)
    put(config, data.draw(st.sampled_from(list(places(config)))), junk)
    path = tmp_path / "model.safetensors"
    forge(path, tensors, json.dumps(config))
    start = time.process_time()
    try:
        found = load(path)
    except ValueError:
        pass
    else:
        assert isinstance(found, Checkpoint)
        assert found.model(torch.zeros(2, 6)).corrected.isfinite().all()
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("averages.classes", 9),
        ("averages.classes", -1),
        ("averages.values", -0.5),
        ("averages.rest", -0.5),
        ("counts.columns.classes", 9),
        ("memorization.residuals.classes", 9),
        ("out_of_sample.classes", 9),
        ("out_of_sample.classes", -2),
        ("out_of_sample.confidence", 1.5),
        ("out_of_sample.confidence", -0.5),
    ],
)
def test_state_out_of_range(tmp_path, name, value):
    """Of classes that are no classes, and of probabilities that are none."""
    path = tmp_path / "model.safetensors"
    targets = RefurbishedTargets(20, 9, warmup=2, held_back=0.2, kept=2)
    targets(torch.arange(20), torch.arange(20) % 9, torch.rand(20, 9).softmax(-1))
    save(path, ReliabilityBalancer(6, 9, num_anchors=1), extras={"targets": targets})
    assert "targets" in load(path).extras
    tensors, config = tensor_file.read(path)
    changed = tensors[f"targets.{name}"].clone()
    changed.view(-1)[1] = value
    tensors[f"targets.{name}"] = changed
    forge(path, tensors, json.dumps(config))
    with pytest.raises(ValueError, match=rf"targets\.{name} with values outside of \["):
        load(path)


def test_a_billion_samples_are_not_drawn(content, tmp_path):
    tensors, config = tensor_file.read(content)
    config["modules"]["targets"]["parts"][""]["num_samples"] = 10**9
    forge(tmp_path / "model.safetensors", tensors, json.dumps(config))
    refuse(tmp_path / "model.safetensors")


def test_a_billion_classes_of_an_older_version_are_not_filled(content, tmp_path):
    """Before version 4 balancers might have no class frequencies; they get even ones."""
    tensors, config = tensor_file.read(content)
    del tensors["model.class_prior"]
    config["format_version"] = 3
    for size in (10**9, 10**12, 0, -1, 4, True, 3.0, "3", None):
        config["modules"]["model"]["parts"][""]["num_classes"] = size
        forge(tmp_path / "model.safetensors", tensors, json.dumps(config))
        refuse(tmp_path / "model.safetensors")


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', "[" * 10**5, "null", "3"])
def test_texts_that_are_no_configuration(content, tmp_path, text):
    tensors, _ = tensor_file.read(content)
    forge(tmp_path / "model.safetensors", tensors, text)
    refuse(tmp_path / "model.safetensors")


def test_a_setting_that_occurs_twice(content, tmp_path):
    tensors, config = tensor_file.read(content)
    text = json.dumps(config).replace('"delta": 0.1', '"delta": 0.1, "delta": 5', 1)
    forge(tmp_path / "model.safetensors", tensors, text)
    refuse(tmp_path / "model.safetensors")


def test_deep_settings_are_shown_or_refused(content, tmp_path):
    tensors, config = tensor_file.read(content)
    path = tmp_path / "model.safetensors"
    for depth in (100, 400, 900, 2000):
        config["preprocessing"] = {"a": "DEEP"}
        forge(path, tensors, json.dumps(config).replace('"DEEP"', "[" * depth + "]" * depth))
        for read in (load, describe):
            with contextlib.suppress(ValueError):
                read(path)


def test_weights_of_the_users_own_model(tmp_path):
    """They are named by `load` before anything is filled, and by `save` before it writes."""

    def build() -> nn.Module:
        return wrap(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), num_anchors=1)

    path, model = tmp_path / "model.safetensors", build()
    save(path, model)
    tensors, config = tensor_file.read(path)
    before = path.read_bytes()
    for value in (math.nan, math.inf):
        with torch.no_grad():
            model.model[0].weight[0, 0] = value
        with pytest.raises(
            ValueError, match=r"`model` must have finite weights; .* model.0.weight"
        ):
            save(path, model)
        assert path.read_bytes() == before
        tensors["model.model.0.weight"] = model.model[0].weight.detach().clone()
        forge(tmp_path / "other.safetensors", tensors, json.dumps(config))
        other = build()
        state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        refuse(tmp_path / "other.safetensors", model=other)
        assert all(torch.equal(state[name], now) for name, now in other.state_dict().items())
