"""Checkpoints: what is saved comes back, bit for bit, and nothing else is taken for one."""

import inspect
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from short_targets import short_targets
from torch import nn

from reliability_balance import ReliabilityBalancer, RobustLoss, calibrate, fit_head, wrap
from reliability_balance.calibration import (
    Abstention,
    BranchTemperatures,
    CalibratedModel,
    Calibrator,
    ClassPredictionSets,
    Familiarity,
    GroupPredictionSets,
    PredictionSets,
    SelectionScore,
    TemperatureScaling,
    TopLabelScaling,
    VectorScaling,
)
from reliability_balance.checkpoint import describe, load, rebuilding, save, tensor_file
from reliability_balance.checkpoint.formats import migrate
from reliability_balance.core import MLPHead, Recipe, get_recipe
from reliability_balance.labels import RefurbishedTargets, inspect_embeddings

ROOT = Path(__file__).parents[2]
FORMAT_1 = ROOT / "tests" / "fixtures" / "checkpoint_format_1.safetensors"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def classifier(width=8, classes=3):
    return nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes)
    )


def small(**options):
    return ReliabilityBalancer(4, 2, num_anchors=1, head="linear", attention="off", **options)


def fitted_extras():
    """One of each kind, none with the values it started from."""
    log_probs, labels = torch.randn(60, 3).log_softmax(-1), torch.arange(60) % 3
    balancer = ReliabilityBalancer(8, 3, attention="tokens", correction_weight=0.5).eval()
    output = balancer(torch.randn(60, 8))
    targets = RefurbishedTargets(60, 3, momentum=0.7, warmup=1, dtype=torch.float16)
    for _ in range(3):
        targets(torch.arange(60), labels, log_probs.exp())
    return {
        "temperature": TemperatureScaling().fit(log_probs, labels),
        "vector": VectorScaling(3).fit(log_probs, labels),
        "top": TopLabelScaling().fit(log_probs, labels),
        "branches": BranchTemperatures(correction_weight=0.5).fit(output, labels),
        "sets": PredictionSets(0.8).fit(log_probs, labels),
        "class_sets": ClassPredictionSets(3, 0.8, score="aps").fit(log_probs, labels),
        "group_sets": GroupPredictionSets(2, 0.8).fit(log_probs, labels, torch.arange(60) % 2),
        "abstention": Abstention(0.3, delta=0.1).fit(torch.rand(60), labels == 0),
        "familiarity": Familiarity(8, num_references=20).fit(output),
        "selection": SelectionScore(8, 3, num_references=30).fit(output, output.corrected),
        "targets": targets,
        "spare": small(),
    }


def assert_same_state(first, second):
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True, msg=name)


BALANCERS = {
    "robust": {},
    "paper": {"recipe": "paper", "num_anchors": 10},
    "no anchors": {"num_anchors": 0, "delta": 0.7},
    "attention": {"attention": "tokens", "head": "mlp"},
    "no head": {"head": None, "correction_weight": 0.5},
    "other sizes": {"num_heads": 3, "head_dim": 5, "metric": "euclidean", "attention": "single"},
}


RAPS = {"score": "raps", "penalty": 0.1, "free_ranks": 2}
# Every setting of what is rebuilt, away from its default.
SETTINGS = {
    ReliabilityBalancer: {
        "embedding_dim": 6,
        "num_classes": 3,
        "num_anchors": 2,
        "recipe": "paper",
        "head": "linear",
        "metric": "cosine",
        "delta": 0.3,
        "attention": "tokens",
        "num_heads": 3,
        "head_dim": 5,
        "correction_weight": 0.5,
    },
    RefurbishedTargets: {
        "num_samples": 30,
        "num_classes": 3,
        "momentum": 0.7,
        "temperature": 0.5,
        "noise_temperature": 0.5,
        "prior_count": 30.0,
        "warmup": 4,
        "memory": 0.7,
        "held_back": 0.2,
        "held_for": 3,
        "num_annotators": 3,
        "annotator_prior": 7.0,
        "kept": 2,
    },
    TemperatureScaling: {},
    TopLabelScaling: {},
    VectorScaling: {"num_classes": 3},
    BranchTemperatures: {"correction_weight": 0.5},
    Calibrator: {"num_classes": 3, "correction_weight": 0.5},
    PredictionSets: {"coverage": 0.8, **RAPS},
    ClassPredictionSets: {"num_classes": 3, "coverage": 0.8, **RAPS},
    GroupPredictionSets: {"num_groups": 2, "coverage": 0.8, **RAPS},
    Abstention: {"max_risk": 0.3, "delta": 0.1},
    Familiarity: {"embedding_dim": 6, "num_references": 7, "false_alarm_rate": 0.1},
    SelectionScore: {"embedding_dim": 6, "num_classes": 3, "num_references": 30},
}
IN_THE_STATE = {"dtype"}
OF_EACH_RUN = {"validate_args", "group"}


class TestSettings:
    @pytest.mark.parametrize("kind", rebuilding.BUILDABLE.values())
    def test_no_setting_is_forgotten(self, path, kind):
        settings = SETTINGS[kind]
        parameters = inspect.signature(kind).parameters
        assert set(settings) == set(parameters) - IN_THE_STATE - OF_EACH_RUN
        for name, value in settings.items():
            assert value != parameters[name].default, name
        module = kind(**settings)
        save(path, small(), extras={"it": module})
        found = load(path).extras["it"]
        settings_found = rebuilding.parts_of(found)[""]
        assert {name: settings_found[name] for name in settings} == settings
        assert str(found) == str(module)
        assert_same_state(found, module)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_targets_of_the_defaults_come_back(self, path, dtype):
        targets = RefurbishedTargets(20, 2, dtype=dtype)
        batch = torch.arange(20), torch.arange(20) % 2, torch.rand(20, 2).softmax(-1)
        for _ in range(3):
            targets(*batch)
        save(path, small(), extras={"targets": targets})
        found = load(path).extras["targets"]
        assert str(found) == str(targets)
        for _ in range(9):  # beyond the warm-up
            assert torch.equal(found(*batch), targets(*batch))

    def test_files_from_before_a_setting_hold_its_default_of_then(self, path):
        holder = nn.Module()
        holder.targets = short_targets(20, 2, warmup=2)
        save(path, holder, extras={"targets": holder.targets})
        tensors, config = tensor_file.read(path)
        config["format_version"] = 3
        newer = ("noise_temperature", "prior_count", "held_back", "memory", "held_for")
        del tensors["model.targets.remembers"], tensors["targets.remembers"]
        for role, part in (("model", "targets"), ("targets", "")):
            for name in newer:
                del config["modules"][role]["parts"][part][name]
        tensor_file.write(path, tensors, config)
        found = load(path, holder).extras["targets"]
        assert str(found) == str(short_targets(20, 2, warmup=2))
        holder.targets.prior_count = 30.0
        with pytest.raises(ValueError, match=r"prior_count is 0.0 in the file and 30.0 here"):
            load(path, holder)

    def test_files_from_before_scores_hold_the_one_there_was(self, path):
        log_probs = torch.randn(60, 3).log_softmax(-1)
        sets = PredictionSets(0.8).fit(log_probs, torch.arange(60) % 3)
        save(path, small(), extras={"sets": sets})
        tensors, config = tensor_file.read(path)
        for name in ("score", "penalty", "free_ranks"):
            del config["modules"]["sets"]["parts"][""][name]
        tensor_file.write(path, tensors, config)
        found = load(path).extras["sets"]
        assert str(found) == str(sets)
        assert torch.equal(found(log_probs), sets(log_probs))

    @pytest.mark.parametrize("number", [np.float32(0.1), np.float64(0.1), torch.tensor(0.1)])
    def test_numbers_of_numpy_and_torch(self, path, number):
        balancer = small(delta=number)
        save(path, balancer)
        found = load(path).model
        assert type(found.delta) is float
        assert found.delta == float(number)
        load(path, balancer)

    @pytest.mark.parametrize("number", [Fraction(1, 10), float("inf")])
    def test_numbers_that_json_cannot_hold(self, path, number):
        balancer = small()
        balancer.delta = number
        with pytest.raises(
            TypeError, match=r"the settings of `model` must be .* JSON can hold; got"
        ):
            save(path, balancer)
        assert os.listdir(path.parent) == []

    @pytest.mark.parametrize("make", [ReliabilityBalancer, None], ids=["balancer", "wrapped"])
    def test_a_recipe_of_ones_own_comes_back(self, path, make):
        recipe = replace(get_recipe("robust"), num_anchors=2, mixing=None)
        options = {"recipe": recipe, "head_dim": 4}
        model = make(8, 3, **options) if make else wrap(classifier(), **options)
        save(path, model)
        found = load(path, None if make else wrap(classifier())).model
        balancer = found if make else found.balancer
        assert balancer.recipe == recipe
        assert "recipe=Recipe(num_anchors=2, mixing=None)" in str(balancer)

    def test_a_recipe_from_before_a_field_has_its_default(self, path):
        balancer = ReliabilityBalancer(8, 3, recipe=Recipe(delta=0.2))
        save(path, balancer)
        tensors, config = tensor_file.read(path)
        del config["modules"]["model"]["parts"][""]["recipe"]["temperature"]
        tensor_file.write(path, tensors, config)
        assert load(path).model.recipe == Recipe(delta=0.2)
        load(path, balancer)
        with pytest.raises(
            ValueError, match=r"got: recipe.memory is 0.3 in the file and 1.0 here$"
        ):
            load(path, ReliabilityBalancer(8, 3, recipe=Recipe(delta=0.2, memory=1)))

    def test_a_recipe_with_the_values_of_a_named_one_is_that_one(self, path):
        save(path, ReliabilityBalancer(8, 3, recipe=Recipe()))
        load(path, ReliabilityBalancer(8, 3))

    @pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 1])
    def test_numbers_of_a_recipe(self, path, number):
        recipe = Recipe(temperature=number)
        assert type(recipe.temperature) is float
        save(path, ReliabilityBalancer(8, 3, recipe=recipe))
        assert load(path).model.recipe == recipe

    @pytest.mark.parametrize(
        "recipe",
        [
            *({"colour": 3}, {"delta": -1.0}, {"delta": "x"}, {"mixing": []}, ["robust"], 3),
            *({"temperature": 10**400}, {"temperature": True}, {"head_back": 0.1}),
        ],
    )
    def test_a_recipe_that_is_none(self, path, recipe):
        save(path, ReliabilityBalancer(8, 3))
        tensors, config = tensor_file.read(path)
        config["modules"]["model"]["parts"][""]["recipe"] = recipe
        tensor_file.write(path, tensors, config)
        with pytest.raises(ValueError, match=r"`path` must .*got"):
            load(path)

    def test_checking_of_values_is_chosen_anew(self, path):
        save(path, small(validate_args=False))
        assert load(path).model.validate_args


def with_norm(balancer):
    """The same layers, of which one has another state."""
    torch.nn.utils.parametrizations.weight_norm(balancer.attention.output)
    return balancer


class TestRoundTrip:
    @pytest.mark.parametrize("options", BALANCERS.values(), ids=list(BALANCERS))
    def test_a_balancer_is_rebuilt_from_the_file_alone(self, path, options):
        balancer = ReliabilityBalancer(8, 3, **options).eval()
        save(path, balancer)
        state = torch.get_rng_state()
        found = load(path).model
        assert torch.equal(torch.get_rng_state(), state)
        assert str(found) == str(balancer)
        assert not found.training
        assert_same_state(found, balancer)
        logits = torch.randn(5, 3) if balancer.head is None else None
        embedding = torch.randn(5, 8)
        for one, other in zip(found(embedding, logits), balancer(embedding, logits), strict=True):
            assert one is other is None or torch.equal(one, other)

    def test_a_rebuilt_balancer_can_be_trained_on(self, path):
        save(path, ReliabilityBalancer(8, 3))
        found = load(path).model
        os.remove(path)
        fit_head(found, torch.randn(20, 8), torch.arange(20) % 3, epochs=1)
        assert all(parameter.requires_grad for parameter in found.parameters())

    @pytest.mark.parametrize("keep_head", [False, True])
    def test_a_wrapped_model_is_filled(self, path, keep_head):
        saved = wrap(classifier(), keep_head=keep_head)
        saved(torch.randn(4, 6))  # moves the running statistics
        other = wrap(classifier(), keep_head=keep_head).train()
        save(path, saved.eval())
        assert load(path, other).model is other
        assert not other.training
        assert_same_state(other, saved)
        inputs = torch.randn(5, 6)
        assert torch.equal(other(inputs).log_probs, saved(inputs).log_probs)

    @pytest.mark.parametrize(
        "options",
        [
            {"head": "mlp", "attention": "tokens"},
            {"num_anchors": 3},
            {"keep_head": True, "correction_weight": 0.5},
            {"embedding": "0", "num_classes": 3, "recipe": "paper"},
        ],
    )
    @pytest.mark.parametrize("given", ["network", "other wrapper"])
    def test_a_network_is_wrapped_as_the_saved_one_was(self, path, options, given):
        saved = wrap(classifier(), **options).eval()
        save(path, saved)
        network = classifier()
        model = load(path, network if given == "network" else wrap(network)).model
        assert not model.training
        assert model.model is network
        inputs = torch.randn(5, 6)
        assert torch.equal(model(inputs).log_probs, saved(inputs).log_probs)
        frozen = [[p.requires_grad for p in each.parameters()] for each in (model, saved)]
        assert frozen[0] == frozen[1]

    @pytest.mark.parametrize("shell", [torch.compile, nn.DataParallel])
    def test_a_compiled_or_parallel_model_is_saved_as_the_module_within(self, path, shell):
        saved = wrap(classifier()).eval()
        save(path, shell(saved))
        inputs = torch.randn(5, 6)
        found = load(path, classifier()).model
        assert torch.equal(found(inputs).log_probs, saved(inputs).log_probs)

    def test_all_that_goes_with_a_model(self, path):
        extras = fitted_extras()
        save(
            path,
            classifier(),
            class_names=["a", "ü", "c"],
            preprocessing={"mean": [0.5], "size": {"height": 3}, "note": None},
            extras=extras,
        )
        found = load(path, classifier())
        assert found.class_names == ("a", "ü", "c")
        assert found.preprocessing == {"mean": [0.5], "size": {"height": 3}, "note": None}
        assert found.versions["torch"] == torch.__version__
        assert list(found.extras) == list(extras)
        for name, extra in extras.items():
            assert type(found.extras[name]) is type(extra)
            assert str(found.extras[name]) == str(extra)
            assert_same_state(found.extras[name], extra)

    def test_targets_go_on_where_they_were(self, path):
        targets = fitted_extras()["targets"]
        save(path, small(), extras={"targets": targets})
        found = load(path).extras["targets"]
        batch = torch.arange(60), torch.arange(60) % 3, torch.rand(60, 3).softmax(-1)
        assert torch.equal(found(*batch), targets(*batch))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_precision_stays(self, path, dtype):
        balancer = ReliabilityBalancer(8, 3).to(dtype)
        save(path, balancer)
        assert_same_state(load(path).model, balancer)

    def test_memory_that_is_shared_strided_or_empty(self, path):
        model = classifier(6, 6)
        model[3].weight = model[0].weight
        model.register_buffer("window", torch.arange(12).reshape(3, 4).T[1:])
        model.register_buffer("nothing", torch.zeros(0, 3))
        model.register_buffer("flag", torch.tensor(True))
        model.register_buffer("wave", torch.tensor([1 + 2j]))
        other = classifier(6, 6)
        for name in ("window", "nothing", "flag", "wave"):
            other.register_buffer(name, torch.zeros_like(getattr(model, name)))
        other[3].weight = other[0].weight
        save(path, model)
        load(path, other)
        assert_same_state(other, model)
        assert other[3].weight is other[0].weight

    def test_an_expanded_buffer(self, path):
        model, other = nn.Module(), nn.Module()
        model.register_buffer("rows", torch.ones(1, 3).expand(4, 3))
        other.register_buffer("rows", torch.zeros(4, 3))
        save(path, model)
        assert torch.equal(load(path, other).model.rows, torch.ones(4, 3))

    def test_saving_leaves_the_model_and_the_folder_as_they_were(self, path):
        model = wrap(classifier())
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save(path, model)
        save(path, model)
        assert os.listdir(path.parent) == [path.name]
        assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())

    def test_the_configuration_can_be_read(self, path):
        save(path, wrap(classifier()), class_names=["a", "b", "c"])
        config = json.loads(describe(path))
        assert config["class_names"] == ["a", "b", "c"]
        assert config["modules"]["model"]["parts"]["balancer"]["delta"] == 0.1

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_between_devices(self, path):
        balancer = ReliabilityBalancer(8, 3).cuda()
        save(path, balancer)
        assert load(path).model.anchors.device.type == "cpu"
        other = ReliabilityBalancer(8, 3).cuda()
        assert load(path, other).model.anchors.device.type == "cuda"
        assert_same_state(other, balancer)


def test_a_wrapper_stays_where_the_files_settings_are_refused(path):
    saved = wrap(classifier())
    saved.source.token_mask = "padding"  # which `wrap` would not take
    save(path, saved)
    given = wrap(classifier(), attention="single").eval()
    inputs = torch.randn(5, 6)
    before = given(inputs).log_probs
    with pytest.raises(ValueError, match="`token_mask` must be"):
        load(path, given)
    assert torch.equal(given(inputs).log_probs, before)
    assert not given.model[3].weight.requires_grad


class TestMisfits:
    """What does not fit is named, and nothing is loaded."""

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (
                lambda: wrap(classifier(classes=4)),
                r"balancer.num_classes is 3 in the file and 4 here",
            ),
            (lambda: wrap(classifier(width=9)), r"balancer.embedding_dim is 8 in .* and 9 here"),
            (lambda: wrap(classifier()).half(), r"float32 \(.*\) in the file and float16"),
            (lambda: nn.Sequential(*classifier(), nn.Linear(3, 3)), "the file lacks"),
            (lambda: ReliabilityBalancer(8, 3), r"and nothing was loaded"),
        ],
    )
    def test_another_model(self, path, build, message):
        save(path, wrap(classifier()))
        other = build()
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load(path, other)
        assert all(torch.equal(before[name], now) for name, now in other.state_dict().items())

    def test_shapes_of_a_users_own_model(self, path):
        save(path, classifier())
        with pytest.raises(
            ValueError, match=r"3.bias is float32 \(3,\) in the file and float32 \(4,"
        ):
            load(path, classifier(classes=4))

    @pytest.mark.parametrize(
        "model",
        [
            wrap(classifier()),
            classifier(),
            ReliabilityBalancer(8, 3, head=nn.Sequential(nn.Linear(8, 3))),
            ReliabilityBalancer(8, 3, head=MLPHead(8, 3, dropout=0.1)),
            ReliabilityBalancer(8, 3, head=nn.Linear(8, 3, bias=False)),
            with_norm(ReliabilityBalancer(8, 3, attention="tokens")),
        ],
        ids=["wrapped", "plain", "own head", "other dropout", "no bias", "weight norm"],
    )
    def test_what_only_the_user_can_build(self, path, model):
        save(path, model)
        with pytest.raises(
            ValueError, match=f"`model` must be given, since .* {type(model).__name__}"
        ):
            load(path)
        load(path, model)


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"model": {"a": 1}}, TypeError, r"`model` must be a torch.nn.Module; got dict"),
            (
                {"class_names": ["a"]},
                ValueError,
                r"`class_names` must be 2, one for each class of the model; got 1",
            ),
            ({"class_names": ["a", "a"]}, ValueError, "`class_names` must differ"),
            ({"class_names": "ab"}, TypeError, "`class_names` must be a sequence of strings"),
            ({"preprocessing": {"f": print}}, TypeError, "`preprocessing` must be .* JSON"),
            ({"preprocessing": {"f": float("nan")}}, TypeError, "`preprocessing` must be .* JSON"),
            (
                {"extras": {"model": small()}},
                ValueError,
                "other than 'model' as names",
            ),
            ({"extras": {"a.b": small()}}, ValueError, "identifiers .* got 'a.b'"),
            (
                {"extras": {"a": nn.Linear(2, 2)}},
                ValueError,
                "`extras` must be of ReliabilityBalancer, .* got a: Linear$",
            ),
            (
                {"extras": {"a": ReliabilityBalancer(4, 2, head=nn.Linear(4, 2, bias=False))}},
                ValueError,
                "without layers of your own; got a: ReliabilityBalancer",
            ),
            ({"extras": {"a": 3}}, TypeError, "`extras` must be modules; got a: int"),
        ],
    )
    def test_of_save(self, path, arguments, error, message):
        with pytest.raises(error, match=message):
            save(path, **{"model": small(), **arguments})
        assert os.listdir(path.parent) == []

    def test_states_that_are_no_dense_tensors(self, path):
        class Odd(nn.Module):
            def get_extra_state(self):
                return {"a": 1}

        sparse = nn.Module()
        sparse.register_buffer("s", torch.eye(2).to_sparse())
        for model in (Odd(), sparse, nn.Linear(2, 2, device="meta")):
            with pytest.raises(TypeError, match="`model` must have a state of dense tensors; got"):
                save(path, model)

    def test_a_criterion_is_referred_to_torch_save(self, path):
        criterion = RobustLoss(small(), torch.arange(9) % 2, epochs=3)
        with pytest.raises(TypeError, match=r"by torch\.save\(criterion\.state_dict\(\), path\)"):
            save(path, criterion)

    def test_of_a_criterion_the_targets_can_be_an_extra(self, path):
        criterion = RobustLoss(small(), torch.arange(9) % 2, epochs=3)
        with pytest.raises(ValueError, match=r"got a: RobustLoss: save `criterion\.targets`"):
            save(path, small(), extras={"a": criterion})
        save(path, small(), extras={"a": criterion.targets})

    def test_a_calibrated_model_is_referred_to_its_parts(self, path):
        calibrated = CalibratedModel(small(), Calibrator(2, 1.0))
        for model in (calibrated, nn.DataParallel(calibrated)):
            with pytest.raises(TypeError, match=r"save calibrated\.model, with extras="):
                save(path, model)
        assert not path.exists()

    def test_of_paths(self, path, tmp_path):
        with pytest.raises(FileNotFoundError, match="`path` must be an existing checkpoint"):
            load(path)
        with pytest.raises(ValueError, match="`path` must be a regular file; got the folder"):
            load(tmp_path)
        with pytest.raises(ValueError, match="`path` must be a regular file; got the folder"):
            save(tmp_path, small())
        with pytest.raises(FileNotFoundError, match="`path` must lie in an existing folder"):
            save(tmp_path / "no" / "model.safetensors", small())


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


class TestForeignFiles:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("by_torch", [False, True])
    def test_a_pickle_is_never_run(self, path, protocol, by_torch):
        path, target = path.with_suffix(".pt"), path.with_name("attacked")
        content = {"state_dict": Attack(target)}
        if by_torch:
            torch.save(content, path, pickle_protocol=protocol)
        else:
            path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(ValueError, match="got a pickle, as torch"):
            load(path, small())
        assert not target.exists()
        if by_torch:
            torch.load(path, weights_only=False)
        else:
            pickle.loads(path.read_bytes())
        assert target.exists()  # the attack itself works

    @pytest.mark.parametrize("content", [b"", b"{}", b"GIF89a" * 9, b"\x08" + 7 * b"\0" + b"{}"])
    def test_other_files(self, path, content):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be a"):
            load(path)

    def test_weights_of_another_origin(self, path):
        safetensors.torch.save_file({"a": torch.ones(2)}, path)
        with pytest.raises(ValueError, match="a safetensors file of another origin"):
            load(path)

    @pytest.mark.parametrize(
        "config",
        ["", "[]", "3", '{"format_version": 1}', '{"format_version": 1, "parts": 3}', "[" * 5000],
    )
    def test_strange_configurations(self, path, config):
        safetensors.torch.save_file({"a": torch.ones(2)}, path, {"reliability_balance": config})
        with pytest.raises(ValueError, match=r"`path` must have (the|a readable) configuration"):
            load(path)

    def test_settings_that_no_constructor_knows(self, path):
        config = {
            "format_version": 1,
            "class": "TemperatureScaling",
            "parts": {"": {"class": "TemperatureScaling", "scale": 3}},
            **dict.fromkeys(("class_names", "preprocessing")),
            "versions": {},
        }
        text = json.dumps(config)
        safetensors.torch.save_file({"a": torch.ones(2)}, path, {"reliability_balance": text})
        with pytest.raises(ValueError, match=r"got .*: model with the unknown 'scale'"):
            load(path)


class TestFormats:
    def test_version_1_is_migrated(self):
        found = load(FORMAT_1)
        inputs = torch.linspace(-1, 1, 8).reshape(2, 4)
        expected = [
            [0.9429309368133545, 0.0570690855383873],
            [0.042291320860385895, 0.9577086567878723],
        ]
        torch.testing.assert_close(found.model(inputs).corrected, torch.tensor(expected))
        assert found.class_names == ("cat", "dog")
        assert found.preprocessing == {"mean": [0.5]}
        assert found.extras == {}

    def test_version_1_saved_again_is_the_present_one(self, path):
        found = load(FORMAT_1)
        save(path, found.model, class_names=found.class_names)
        assert json.loads(describe(path))["format_version"] == 8
        assert_same_state(load(path).model, found.model)

    @pytest.mark.parametrize(("tap", "channels"), [("input", -1), ("output", 1)])
    def test_version_2_knew_less_of_a_wrapper(self, path, tap, channels):
        save(path, wrap(classifier(), 3, embedding="0" if tap == "output" else None))
        parts = json.loads(describe(path))["modules"]["model"]["parts"]
        old = {"class": "WrappedClassifier", "keep_head": False, "layer": parts[""]["layer"]}
        modules = {"model": {"class": "WrappedClassifier", "parts": {"": {**old, "tap": tap}}}}
        rest = {"class_names": None, "preprocessing": None, "versions": {}}
        _, config = migrate(path, {}, {"format_version": 2, "modules": modules, **rest})
        expected = {**old, "side": tap, "channels": channels}
        assert config["modules"]["model"]["parts"][""] == expected

    @pytest.mark.parametrize("prior", [None, torch.tensor([0.7, 0.3])])
    @pytest.mark.parametrize("part", ["", "balancer"])
    def test_version_3_had_class_frequencies_in_some_balancers_alone(self, path, part, prior):
        holder = nn.Module()
        holder.balancer = small()
        saved = holder if part else holder.balancer
        save(path, saved)
        tensors, config = tensor_file.read(path)
        name = f"model.{part}.class_prior" if part else "model.class_prior"
        if prior is None:
            del tensors[name]
        else:
            tensors[name] = prior
            config["modules"]["model"]["parts"][part]["has_class_prior"] = True
        tensor_file.write(path, tensors, {**config, "format_version": 3})
        other = nn.Module()
        other.balancer = small()
        other.balancer.class_prior.copy_(torch.tensor([0.1, 0.9]))
        found = load(path, other).model.balancer if part else load(path).model
        expected = torch.full((2,), 0.5) if prior is None else prior
        assert torch.equal(found.class_prior, expected)
        assert torch.equal(found.anchors, holder.balancer.anchors)

    def test_version_6_did_not_keep_the_agreement_of_an_inspection(self, path):
        targets = inspect_embeddings(torch.randn(40, 4), torch.arange(40) % 2, 2)
        save(path, small(), extras={"targets": targets})
        tensors, config = tensor_file.read(path)
        del tensors["targets.agreement"]
        tensor_file.write(path, tensors, {**config, "format_version": 6})
        found = load(path).extras["targets"]
        assert found.agreement.tolist() == [0.0, -1.0]
        targets.agreement.copy_(found.agreement)
        assert_same_state(found, targets)

    def test_version_7_named_the_class_bias_otherwise(self, path):
        targets = inspect_embeddings(torch.randn(40, 4), torch.arange(40) % 2, 2)
        save(path, small(), extras={"targets": targets})
        tensors, config = tensor_file.read(path)
        tensors["targets.classes.tilt"] = tensors.pop("targets.classes.class_bias")
        tensor_file.write(path, tensors, {**config, "format_version": 7})
        assert_same_state(load(path).extras["targets"], targets)
        tensors["targets.classes.class_bias"] = tensors["targets.classes.tilt"].clone()
        tensor_file.write(path, tensors, {**config, "format_version": 7})
        with pytest.raises(ValueError, match=r"classes\.tilt, which is not here"):
            load(path)

    def test_fields_of_recipes_once_had_other_names(self, path):
        recipe = replace(get_recipe("robust"), refurbishes_labels=False, logit_adjustment=False)
        save(path, ReliabilityBalancer(4, 2, recipe=recipe))
        tensors, config = tensor_file.read(path)
        fields = config["modules"]["model"]["parts"][""]["recipe"]
        for old, new in {
            "doubts_labels": "refurbishes_labels",
            "even_classes": "logit_adjustment",
        }.items():
            fields[old] = fields.pop(new)
        tensor_file.write(path, tensors, config)
        assert load(path).model.recipe == recipe
        fields["logit_adjustment"] = True
        tensor_file.write(path, tensors, config)
        with pytest.raises(ValueError, match=r"`logit_adjustment` must .* got `even_classes`"):
            load(path)

    @pytest.mark.parametrize("version", [9, 0, "2", None])
    def test_unknown_versions(self, path, version, monkeypatch):
        monkeypatch.setattr("reliability_balance.checkpoint.saving.FORMAT_VERSION", version)
        save(path, small())
        with pytest.raises(ValueError, match=f"from 1 to 8; got {version!r} .* pip install -U"):
            load(path)


class TestDamage:
    def test_every_bit_counts(self, path):
        save(path, small(), extras={"scaling": TemperatureScaling()})
        whole = path.read_bytes()
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="`path` must"):
                load(path)

    def test_every_length_but_the_whole(self, path):
        save(path, small())
        whole = path.read_bytes()
        for length in range(0, len(whole), 3):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match="`path` must be a whole checkpoint"):
                load(path)
        path.write_bytes(whole + b"\0")
        with pytest.raises(ValueError, match="`path` must be a whole checkpoint"):
            load(path)

    def test_a_failed_save_leaves_the_old_file(self, path, monkeypatch):
        save(path, small(), class_names=["a", "b"])

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(path, small(), class_names=["c", "d"])
        assert os.listdir(path.parent) == [path.name]
        assert load(path).class_names == ("a", "b")

    def test_killed_while_saving_the_old_file_or_the_new_one_is_whole(self, path):
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "helpers" / "save_for_ever.py", path],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"saved\n"
            for _ in range(20):
                load(path)  # while it is being replaced
        finally:
            process.kill()
            process.communicate()
        found = load(path)  # each file is full of the number that it has for a class name
        assert bool((found.model.anchors == int(found.class_names[0])).all())


def test_without_safetensors_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[checkpoint\]' in the clone"):
        save(path, small())


def test_a_calibrated_model_is_refused_with_the_call_that_works(tmp_path):
    labels = torch.arange(200) % 2
    calibrated = calibrate(nn.Linear(4, 2), [(torch.randn(200, 4), labels)])
    with pytest.raises(TypeError, match=r"save calibrated\.model, with extras="):
        save(tmp_path / "model.safetensors", calibrated)
    assert not list(tmp_path.iterdir())
