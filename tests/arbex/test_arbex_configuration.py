import re
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
import yaml

from examples.arbex.configuration import (
    RECIPE_FOLDER,
    as_plain,
    dump_config,
    load_config,
    override_config,
    parse_config,
    plain_cross_entropy,
)
from examples.arbex.readers.reading import DatasetName
from examples.arbex.recipes.strict_yaml import read_yaml
from reliability_balance.core import RECIPES, Recipe, get_recipe


@pytest.mark.parametrize("name", ["paper", "robust", "quick"])
def test_each_recipe_survives_being_written_and_read(name, tmp_path):
    recipe = load_config(name)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_config(recipe))
    assert load_config(str(file)) == recipe


def test_the_recipes_on_disk_are_the_three():
    assert {file.stem for file in RECIPE_FOLDER.glob("*.yaml")} == {"paper", "robust", "quick"}


def test_paper_recipe_is_the_papers_section_4_3():
    recipe = load_config("paper")
    settings = recipe.optimization
    assert (settings.epochs, settings.learning_rate, settings.decay) == (1000, 3e-4, 0.995)
    assert (recipe.data.image_size, recipe.data.per_group, recipe.data.per_class) == (224, 512, 500)
    assert recipe.recipe == replace(get_recipe("paper"), num_anchors=10)
    assert recipe.base == "paper"


def test_robust_recipe_is_the_librarys():
    config = load_config("robust")
    assert config.recipe == replace(get_recipe("robust"), attention="tokens")
    assert config.base == "robust"


def test_every_field_of_the_librarys_recipe_is_a_key():
    written = read_yaml(dump_config(load_config("quick")))["recipe"]
    names = {field.name for field in fields(Recipe)} - {"attention"}  # of tokens alone
    assert written.keys() == names


def test_the_base_may_change_beside_other_changes():
    changed = load_config("quick", ["recipe.base=paper", "recipe.delta=0.5"])
    assert changed.recipe == replace(get_recipe("paper"), delta=0.5, mixing=None)
    with pytest.raises(ValueError, match=r"values of the recipe, not its base; got recipe\.base"):
        override_config(changed, ["recipe.base=robust"])


def test_a_run_stays_what_it_was_when_the_librarys_defaults_change(monkeypatch):
    recipe = load_config("quick")
    written, before = dump_config(recipe), recipe.recipe
    monkeypatch.setitem(RECIPES, "robust", replace(before, temperature=0.9, mixing=None))
    assert load_config("quick").recipe.temperature == 0.9
    assert parse_config(read_yaml(written), where="run").recipe == before


def test_paths_may_begin_at_home():
    overrides = ["data.root=~/faces", "encoder.ir50=~/ir50.pth"]
    recipe = load_config("quick", overrides)
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
        ("recipe: {label_smoothing: 1.5}", r"own\.yaml: `recipe\.label_smoothing`.*1\.5"),
        ("recipe: {temperature: 0}", r"`recipe\.temperature` must be greater than 0; got 0"),
        ("recipe: {temperature: warm}", r"`recipe\.temperature` must be a valid number.*'warm'"),
        ("recipe: {delta: 1.0e-7}", r"`recipe\.delta` must be at least 1e-06; got 1e-07"),
        ("recipe: {tempo: 1}", r"unknown key `recipe\.tempo`; known are .*temperature.*mixing"),
        ("balancer: {delta: 1}", r"unknown key `balancer`; known are seed, data, encoder, recipe"),
        ("recipe: [1, 2]", r"own\.yaml: `recipe`"),
        ("data: {", r"own\.yaml: must be YAML: .* in line 1, column 8"),
        ("seed: 1\nseed: 2", r"own\.yaml: must be YAML: `seed` is there twice in line 2"),
        ("data: {splits: {held_out: [3]}}", r"`data\.splits\.held_out\.0` must be text, in quotes"),
        ("data: {root: 2024}", r"`data\.root` must be a path, in quotes.*got 2024"),
        ("{1: 2}", "`1` must be strings"),
        ("data: &a {rendered: *a}", r"own\.yaml: "),
        (
            "recipe: {doubts_labels: false, refurbishes_labels: true}",
            r"`recipe\.refurbishes_labels` must be given once; got `doubts_labels`",
        ),
        ("- 1", r"own\.yaml: must hold sections with keys; got list"),
    ],
)
def test_errors_name_file_and_key(tmp_path, content, message):
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_config(str(file))


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(FileNotFoundError, match=r"paper, quick, robust.*got slow"):
        load_config("slow")


def test_overrides_win_and_leave_the_rest():
    recipe = load_config("quick", ["optimization.epochs=2", "data.rendered.label_noise=0.1"])
    assert recipe.optimization.epochs == 2
    assert recipe.data.rendered["label_noise"] == 0.1
    assert recipe.data.rendered["difficulty"] == load_config("quick").data.rendered["difficulty"]
    assert load_config("quick", ["recipe.token_attention=off"]).recipe.token_attention == "off"
    slower = override_config(recipe, ["optimization.learning_rate=3e-4"])
    assert slower.optimization.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.epochs", "section.key=value; got 'optimization.epochs'"),
        ("seed.deep=3", "`seed` holds a value"),
        ("encoder.nmae=x", r"unknown key `encoder\.nmae`"),
        ("seed={", r"--set seed: must be YAML: .*got '\{'"),
        ("data..root=x", "section.key=value"),
        ("=x", "section.key=value"),
        ("ünï.x=3", "unknown key `ünï`"),
        ("seed =3", "unknown key `seed `"),
        ("data.root.deep=3", "`root` holds a value"),
        ("data=3", "`data` must hold keys with values; got 3"),
        ("data=null", "`data` must hold keys with values; got None"),
        ("data.root=", "`data.root` must be a path; got ''"),
        ("data.splits.held_out=12", r"`data\.splits\.held_out` must be a list.*got '12'"),
        ("data.splits.validation_share=2", r"`data\.splits\.validation_share` must lie in"),
        ("data.splits.seed=x", r"`data\.splits\.seed` must be a valid integer; got 'x'"),
        ("data.splits.foo=1", r"unknown key `data\.splits\.foo`"),
        ("data.rendered.difficulty=mad", r"`data\.rendered\.difficulty` must be 'easy'.*'mad'"),
        ("data.rendered.num_faces=many", r"`data\.rendered\.num_faces`.*integer; got 'many'"),
        ("data.rendered.num_faces=yes", r"`data\.rendered\.num_faces`.*integer; got 'yes'"),
        ("data.rendered.ambiguity=7", r"`data\.rendered\.ambiguity` must lie in \[0, 1\]; got 7"),
        ("data.rendered.seed=99999999999999999999", r"`data\.rendered\.seed` must be less than"),
        ("encoder.options.depth=1", r"unknown key `encoder\.options\.depth`"),
        ("encoder.options.image_size=true", r"`encoder\.options\.image_size`.*integer; got True"),
        ("encoder.name=resnet", r"`encoder\.name` must be one of poster.*got 'resnet'"),
        ("optimization.epochs=1:30", r"`optimization\.epochs` must be a valid integer; got '1:30'"),
        ("optimization.learning_rate=.inf", r"must be a finite number; got inf"),
        ("optimization.precision=32", r"`optimization\.precision` must be '32-true'.*got '32'"),
        ("recipe.token_attention=no", r"`recipe\.token_attention` must be .*got 'no'"),
        ("recipe.base=best", r"`recipe\.base` must be 'robust' or 'paper'; got 'best'"),
        ("recipe.num_anchors=4611686018427387904", r"`recipe` must be values that .* accepts"),
    ],
)
def test_errors_of_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        load_config("quick", [override])


WRONG = ("x", "yes", "true", "~", "null", "", '"1"', "[]", "{a: 1}", "1e999", "1.5", "-1", "é", "#")


def leaves(content, prefix=""):
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("key", [*leaves(as_plain(load_config("quick")))])
def test_any_value_of_any_key_is_taken_or_refused_in_one_line_that_names_it(key):
    for value in WRONG:
        try:
            recipe = load_config("quick", [f"{key}={value}"])
        except ValueError as error:
            message = str(error)
            assert "\n" not in message
            assert key in message
            assert "got" in message or "unknown key" in message
        else:
            assert parse_config(read_yaml(dump_config(recipe)), where="again") == recipe


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/x/set #2",
            "2024",
            "007",
            "1e3",
            "a: b",
            "a=b",
            '"quoted"',
            "'",
            "[x",
            "{",
            "no",
            "~me x",
        ),
        *("- x", "!!int 3", "*x", "&x", "%", "@", " x ", "顔", "new\nline", "/x/\udcff", "./null"),
    ],
)
def test_paths_are_taken_as_they_are(path):
    recipe = load_config("quick", [f"data.root={path}"])
    assert recipe.data.root == Path(path)
    assert parse_config(read_yaml(dump_config(recipe)), where="again") == recipe
    options = ["encoder.options.weights=" + path, "encoder.name=timm", "encoder.options.name=x"]
    assert load_config("quick", options).encoder.options["weights"] == path


def test_names_in_lists_are_taken_as_they_are():
    recipe = load_config("quick", ["data.splits.held_out=[3, 03, KA, 1e3, no, 'a, b', null]"])
    assert recipe.data.splits["held_out"] == ("3", "03", "KA", "1e3", "no", "a, b", "null")
    assert load_config("quick", ["data.splits.held_out=[]"]).data.splits["held_out"] == ()


def test_null_alone_is_none():
    assert load_config("quick", ["data.root=null"]).data.root is None
    assert load_config("quick", ["data.per_class=null"]).data.per_class is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=1", "seed=2"],
        ["seed=1", "optimization.epochs=2", "seed=1"],
        ["data={dataset: csv}", "data.root=x"],
        ["encoder.options.width=4", "encoder={name: small_cnn}"],
        ["recipe.doubts_labels=false", "recipe.refurbishes_labels=true"],
    ],
)
def test_no_key_is_given_twice(overrides):
    with pytest.raises(ValueError, match=r"--set must give each key once; got \w+"):
        load_config("quick", overrides)


def test_former_names_of_fields_are_those_fields(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("recipe: {doubts_labels: false}")
    assert load_config(str(file)).recipe.refurbishes_labels is False
    assert load_config(str(file), ["recipe.refurbishes_labels=true"]).recipe.refurbishes_labels
    assert load_config(str(file), ["recipe.doubts_labels=true"]).recipe.refurbishes_labels
    whole = override_config(load_config("robust"), ["recipe.even_classes=false"])
    assert whole.recipe.logit_adjustment is False


def test_overrides_may_come_in_any_order():
    options = ["encoder.options.width=4", "encoder.name=small_cnn"]
    first, second = load_config("quick", options), load_config("quick", options[::-1])
    assert first == second
    assert first.encoder.options == {"width": 4}


def test_options_of_the_recipes_encoder_do_not_apply_to_another():
    own = load_config("paper").encoder.options
    assert own
    assert load_config("paper", ["encoder.name=poster_v2_base"]).encoder.options == own
    assert load_config("paper", ["encoder.name=small_cnn"]).encoder.options == {}
    timm = override_config(load_config("paper"), ["encoder.name=timm", "encoder.options.name=x"])
    assert timm.encoder.options == {"name": "x"}


def test_the_baseline_differs_in_nothing_but_the_method():
    recipe = load_config("quick")
    plain = plain_cross_entropy(recipe)
    assert (plain.recipe.num_anchors, plain.recipe.token_attention) == (0, "off")
    assert not plain.recipe.refurbishes_labels
    assert plain.recipe.mixing is None
    same = yaml.safe_load(dump_config(recipe))
    other = yaml.safe_load(dump_config(plain))
    for section in ("seed", "data", "encoder", "optimization"):
        assert same[section] == other[section]


def test_yaml_has_the_numbers_of_1_2():
    """Each as its second version has it, not as octal, base sixty, text or false."""
    text = "a: 010\nb: 1e3\nc: 1:30\nd: no\ne: 2024-01-01\nf: 1_0\ng: .5\nh: ~\ni: off"
    expected = (10, 1000.0, "1:30", "no", "2024-01-01", "1_0", 0.5, None, "off")
    assert tuple(read_yaml(text).values()) == expected


def test_every_key_and_data_set_is_documented():
    page = (Path(__file__).resolve().parents[2] / "docs" / "application.md").read_text()
    plain = as_plain(parse_config({}, where="defaults"))
    del plain["recipe"]
    rows = re.findall(r"^\| (`.+`) \| (.+?) \| ", page, flags=re.MULTILINE)
    documented = {key: default for keys, default in rows for key in re.findall("`([^`]+)`", keys)}
    for section, values in plain.items():
        for key, value in values.items() if isinstance(values, dict) else [("", values)]:
            default = documented[f"{section}.{key}".rstrip(".")].strip("`")
            assert read_yaml(default) == value, (section, key)
    for name in get_args(DatasetName):
        assert f"| `{name}` | " in page
