from pathlib import Path

import pytest
import yaml
from configuration import (
    RECIPE_FOLDER,
    dump_recipe,
    load_recipe,
    override_recipe,
    plain_cross_entropy,
)

from reliability_balance.targets import RefurbishedTargets


@pytest.mark.parametrize("name", ["paper", "robust", "quick"])
def test_each_recipe_survives_being_written_and_read(name, tmp_path):
    recipe = load_recipe(name)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(str(file)) == recipe


def test_the_recipes_on_disk_are_the_three():
    assert {file.stem for file in RECIPE_FOLDER.iterdir()} == {"paper", "robust", "quick"}


def test_paper_recipe_is_the_papers_section_4_3():
    recipe = load_recipe("paper")
    settings = recipe.optimization
    assert (settings.epochs, settings.learning_rate, settings.decay) == (1000, 3e-4, 0.995)
    assert (recipe.data.image_size, recipe.data.per_group, recipe.data.per_class) == (224, 512, 500)
    assert recipe.balancer.recipe == "paper"
    assert recipe.balancer.num_anchors == 10
    assert not recipe.targets.enabled


def test_robust_recipe_has_the_librarys_settings_for_long_trainings():
    recipe = load_recipe("robust")
    settings, targets = recipe.targets, RefurbishedTargets.for_long_training(9, 7)
    names = ["momentum", "temperature", "noise_temperature", "prior_count", "warmup", "held_back"]
    assert {name: getattr(settings, name) for name in names} == {
        name: getattr(targets, name) for name in names
    }
    assert (settings.mixing, settings.mix_from) == (0.3, 7)
    assert (recipe.balancer.head, recipe.balancer.class_prior) == ("linear", True)
    assert recipe.data.per_class is None


def test_paths_may_begin_at_home():
    overrides = ["data.root=~/faces", "encoder.ir50=~/ir50.pth"]
    recipe = load_recipe("quick", overrides)
    assert recipe.data.root == Path.home() / "faces"
    assert recipe.encoder.ir50 == Path.home() / "ir50.pth"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optimization: {epochz: 3}", r"own\.yaml: unknown key `optimization\.epochz`"),
        ("optimisation: {epochs: 3}", r"own\.yaml: unknown key `optimisation`"),
        ("optimization: {epochs: many}", r"own\.yaml: `optimization\.epochs`.*'many'"),
        ("optimization: {epochs: 0}", r"own\.yaml: `optimization\.epochs`.*greater.*got 0"),
        ("data: {dataset: imagenet}", r"own\.yaml: `data\.dataset`.*'imagenet'"),
        ("loss: {label_smoothing: 1.5}", r"own\.yaml: `loss\.label_smoothing`.*1\.5"),
        ("balancer: [1, 2]", r"own\.yaml: `balancer`"),
        ("data: {", r"own\.yaml: must be YAML"),
        ("- 1", r"own\.yaml: must hold sections with keys; got list"),
    ],
)
def test_errors_name_file_and_key(tmp_path, content, message):
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(file))


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(FileNotFoundError, match=r"paper, quick, robust.*got slow"):
        load_recipe("slow")


def test_overrides_win_and_leave_the_rest():
    recipe = load_recipe("quick", ["optimization.epochs=2", "data.rendered.label_noise=0.1"])
    assert recipe.optimization.epochs == 2
    assert recipe.data.rendered["label_noise"] == 0.1
    assert recipe.data.rendered["difficulty"] == load_recipe("quick").data.rendered["difficulty"]
    assert load_recipe("quick", ["balancer.attention=off"]).balancer.attention == "off"
    slower = override_recipe(recipe, ["optimization.learning_rate=3e-4"])
    assert slower.optimization.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.epochs", "section.key=value; got 'optimization.epochs'"),
        ("seed.deep=3", "`seed` holds a value"),
        ("encoder.nmae=x", r"unknown key `encoder\.nmae`"),
        ("seed={", "the value must be YAML"),
    ],
)
def test_errors_of_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("quick", [override])


def test_the_baseline_differs_in_nothing_but_the_method():
    recipe = load_recipe("quick")
    plain = plain_cross_entropy(recipe)
    assert plain.balancer.num_anchors == 0
    assert plain.balancer.attention == "off"
    assert not plain.targets.enabled
    same = yaml.safe_load(dump_recipe(recipe))
    other = yaml.safe_load(dump_recipe(plain))
    for section in ("seed", "data", "encoder", "optimization"):
        assert same[section] == other[section]
