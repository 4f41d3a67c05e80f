"""The configuration of a run, parsed strictly from YAML and stored with the run.

A recipe file is YAML with the sections below. An unknown key or a value of the wrong type is an
error that names the file and the key. The section `recipe` is the library's
:class:`reliability_balance.core.Recipe`: `base`, "robust" or "paper", and the fields that differ
from it. Only `attention` is no key: it is always that of tokens, over the encoder's tokens or over
slices of its vector, since without it a small encoder hardly learns from noisy labels.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from examples.arbex.encoders import ENCODERS
from examples.arbex.readers.reading import CorruptPolicy, DatasetName
from examples.arbex.readers.rows import SplitOptions
from examples.arbex.recipes.option_types import (
    Number,
    OptionsOf,
    Truth,
    WholeNumber,
    holds_text,
    is_list,
    option_types,
)
from examples.arbex.recipes.strict_yaml import read_yaml, write_yaml
from examples.arbex.rendering.rendered_faces import PRESETS, Difficulty, RenderedFacesSettings
from reliability_balance import ReliabilityBalancer
from reliability_balance.core import RECIPES, Recipe, RecipeName, get_recipe
from reliability_balance.core.recipes import RENAMED, renamed

RECIPE_FOLDER = Path(__file__).parent / "recipes"
MUST = {  # replacements for pydantic's messages
    "string_type": "must be text, in quotes where YAML reads something else",
    "path_type": "must be a path, in quotes where YAML reads something else",
    "tuple_type": "must be a list, such as [a, b]",
    "dataclass_type": "must hold keys with values",
    "dict_type": "must hold keys with values",
}
NOT_A_KEY = "attention"
SMALLEST_DELTA = 1e-6  # smaller ones overflow in 32 bits
LARGEST_SEED = 2**32 - 1  # NumPy's limit; Lightning seeds NumPy, too


def _expand_home(path: Path) -> Path:
    """Expand ~, which the shell does not in a=~/b; ~ of an unknown user stays as it is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _not_empty(value: Any) -> Any:
    if value == "":  # pathlib would take it for the current folder
        raise ValueError("must be a path")
    return value


Count = Annotated[WholeNumber, Field(ge=1)]
Whole = Annotated[WholeNumber, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Place = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_expand_home)]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def _check_rendered(options: dict[str, Any]) -> dict[str, Any]:
    rendered_settings(options)
    return options


def _check_splits(options: dict[str, Any]) -> dict[str, Any]:
    SplitOptions(**options)
    return options


def _check_encoder(name: str) -> str:
    if name not in ENCODERS:
        raise ValueError(f"must be one of {', '.join(ENCODERS)}")
    return name


@cache
def _encoder_options(name: str) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(Annotated[dict[str, Any], OptionsOf(ENCODERS[name])], config=STRICT)


def rendered_settings(options: Mapping[str, Any]) -> RenderedFacesSettings:
    """Return the settings for a recipe's ``data.rendered``.

    Raises:
        ValueError: if a value is out of range.
    """
    changes = dict(options)
    return replace(PRESETS[changes.pop("difficulty", "medium")], **changes)


@dataclass(frozen=True, config=STRICT)
class Data:
    """Training data and its preprocessing (4.2).

    Args:
        dataset: name of a data set, see :mod:`examples.arbex.readers.reading`.
        root: its folder; for rendered faces the cache folder, which has a default.
        rendered: for rendered faces the `difficulty`, and changes to its
            :class:`RenderedFacesSettings`.
        splits: for data sets in files, the :class:`SplitOptions`.
        corrupt: damaged images are an error ("error") or left out and reported ("skip"). Both
            decode all images beforehand; "unchecked" does not.
        max_missing: maximum share of faces that are left out, or whose class occurs in one split
            only; more is an error.
        image_size: pixels per side of the encoder's input.
        augmentation: strength, from 0 (only the random crop) to 2.
        per_group: maximum of images of each video or person that an epoch draws from.
        per_class: images of each class in an epoch, the paper's refinement. None: all images.
        corrections: CSV of corrected labels, see :mod:`examples.arbex.readers.corrections`.
        soft_labels: whether to train on the votes of FER+ or JAFFE instead of the labels.
        workers: processes that load images; 0: the main process.
    """

    dataset: DatasetName = "rendered"
    root: Place | None = None
    rendered: Annotated[
        dict[str, Any],
        OptionsOf(RenderedFacesSettings, difficulty=Difficulty),
        AfterValidator(_check_rendered),
    ] = Field(default_factory=dict)
    splits: Annotated[dict[str, Any], OptionsOf(SplitOptions), AfterValidator(_check_splits)] = (
        Field(default_factory=dict)
    )
    corrupt: CorruptPolicy = "error"
    max_missing: Annotated[Number, Field(ge=0, le=1)] = 0.1
    image_size: Annotated[WholeNumber, Field(ge=16)] = 64
    augmentation: Annotated[Number, Field(ge=0, le=2)] = 1.0
    per_group: Count = 512
    per_class: Count | None = None
    corrections: Place | None = None
    soft_labels: Truth = False
    workers: Whole = 0


@dataclass(frozen=True, config=STRICT)
class Encoder:
    """The encoder.

    Args:
        name: as in :mod:`examples.arbex.encoders`.
        options: keyword arguments of that encoder.
        ir50: file of pre-trained weights of the image branch.
        mobilefacenet: file of pre-trained weights of the landmark branch.
    """

    name: Annotated[str, AfterValidator(_check_encoder)] = "poster_v2_tiny"
    options: dict[str, Any] = Field(default_factory=dict)
    ir50: Place | None = None
    mobilefacenet: Place | None = None

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Check the options against the types of this encoder's arguments."""
        try:
            _encoder_options(self.name).validate_python(self.options)
        except ValidationError as error:
            known = option_types(ENCODERS[self.name])
            raise ValueError(_explain_all(error, lambda _: known, within="options")) from error
        return self


@dataclass(frozen=True, config=STRICT)
class Optimization:
    """Optimization (4.3): Adam with exponential decay of the learning rate.

    Args:
        epochs: maximum number of epochs.
        batch_size: images in one forward pass, over all processes.
        learning_rate: of Adam in the first epoch.
        decay: factor on the learning rate after each epoch.
        accumulate: batches per step.
        gradient_clip: maximum norm of the gradient. None: no clipping.
        precision: "32-true", or mixed precision: "bf16-mixed" or "16-mixed".
        patience: epochs without a better validation accuracy before training stops. None: no early
            stopping.
        checkpoint_steps: batches between two resume points within an epoch.
    """

    epochs: Count = 10
    batch_size: Annotated[WholeNumber, Field(ge=2)] = 64
    learning_rate: Positive = 3e-4
    decay: Annotated[Number, Field(gt=0, le=1)] = 0.995
    accumulate: Count = 1
    gradient_clip: Positive | None = 1.0
    precision: Precision = "32-true"
    patience: Count | None = None
    checkpoint_steps: Count = 100


def recipe_of(section: Mapping[str, Any]) -> Recipe:
    """Return the library's recipe of a section `recipe`: its base with changes.

    Raises:
        ValueError: if the library rejects a value.
    """
    changes = dict(section)
    recipe = replace(get_recipe(changes.pop("base", "robust")), **changes)
    recipe = replace(recipe, attention=recipe.token_attention)
    if recipe.delta < SMALLEST_DELTA:
        raise ValueError(f"`delta` must be at least {SMALLEST_DELTA}; got {recipe.delta}")
    try:
        with torch.device("meta"):  # allocates nothing and draws no random numbers
            ReliabilityBalancer(1, 2, recipe=recipe)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"must be values that the library accepts: {error}") from error
    return recipe


def _as_recipe(section: Any, check: ValidatorFunctionWrapHandler) -> Recipe:
    if isinstance(section, Recipe):
        return section
    return recipe_of(check(renamed(section) if isinstance(section, dict) else section))


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Configuration of a run.

    Args:
        seed: of weights and batches.
        data: training data.
        encoder: the network before the balancer.
        recipe: all settings of balancer, loss, targets and mixing.
        optimization: optimizer and schedule.
    """

    seed: Annotated[WholeNumber, Field(ge=0, le=LARGEST_SEED)] = 0
    data: Data = Data()
    encoder: Encoder = Encoder()
    recipe: Annotated[
        Recipe, OptionsOf(Recipe, NOT_A_KEY, base=RecipeName), WrapValidator(_as_recipe)
    ] = Field(default_factory=lambda: recipe_of({}))
    optimization: Optimization = Optimization()

    @property
    def base(self) -> RecipeName:
        """Return the name of the library's recipe that differs in the fewest fields."""
        own = asdict(self.recipe).items()
        return max(RECIPES, key=lambda name: len(own & asdict(RECIPES[name]).items()))


CHECKED = TypeAdapter(RunConfig)


def load_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe file by its name in ``recipes/``, or by the path of your own.

    Args:
        name: "paper", "robust", "quick", or the path of a YAML file.
        overrides: ``section.key=value``, in any order; they override the file. Text and paths are
            taken literally, except that ``null`` is None; all other values are YAML. The file's
            options of its encoder do not apply to another ``encoder.name``.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: on broken YAML, an unknown or repeated key, or a value out of range; it names
            file and key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPE_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in RECIPE_FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"`recipe` must be one of {known}, or a YAML file; got {name}")
    try:
        content = read_yaml(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{path}: must hold sections with keys; got {type(content).__name__}")
    content = content or {}
    config = parse_config(content, where=str(path))
    # The recipe as written, so that its base can still be changed.
    written = {**as_plain(config), "recipe": renamed(content.get("recipe", {}))}
    return _overridden(written, overrides) if overrides else config


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Change single values of a configuration, as in :func:`load_config`.

    Raises:
        ValueError: on an unknown or repeated key, a value out of range, or another `recipe.base`,
            whose values are all set already.
    """
    for override in overrides:
        if override.startswith("recipe.base="):
            raise ValueError(
                f"--set must change values of the recipe, not its base; got {override}"
            )
    return _overridden(as_plain(config), overrides) if overrides else config


def _overridden(content: dict[str, Any], overrides: Sequence[str]) -> RunConfig:
    changes = _split(overrides)
    name = content["encoder"]["name"]
    if any(keys == ["encoder", "name"] and value != name for keys, value in changes):
        content["encoder"]["options"] = {}
    for keys, value in changes:
        _override(content, keys, value)
    return parse_config(content, where="--set")


def parse_config(content: Mapping[str, Any], *, where: str) -> RunConfig:
    """Parse nested mappings as a configuration; errors are one line that starts with `where`."""
    try:
        return CHECKED.validate_python(content)
    except ValidationError as error:
        known = partial(_types_in, content=content)
        raise ValueError(f"{where}: {_explain_all(error, known)}") from error


def dump_config(config: RunConfig) -> str:
    """Write a configuration as YAML with all defaults; :func:`load_config` reads it back."""
    return write_yaml(as_plain(config))


def as_plain(config: RunConfig) -> dict[str, Any]:
    """Return nested dictionaries for JSON and YAML with all defaults.

    A run stores these, so that it does not change with the library's defaults.
    """
    recipe = {name: value for name, value in asdict(config.recipe).items() if name != NOT_A_KEY}
    sections = CHECKED.dump_python(config, exclude={"recipe"})
    plain = {name: _without_paths(value) for name, value in sections.items()}
    return {**plain, "recipe": recipe}


def without_files(config: RunConfig) -> RunConfig:
    """Return the configuration without files of pre-trained weights, which may no longer exist."""
    options = {name: value for name, value in config.encoder.options.items() if name != "weights"}
    encoder = replace(config.encoder, options=options, ir50=None, mobilefacenet=None)
    return replace(config, encoder=encoder)


def plain_cross_entropy(config: RunConfig) -> RunConfig:
    """Return the baseline: the same encoder, data and budget with an ordinary head and loss."""
    recipe = replace(
        config.recipe,
        num_anchors=0,
        attention="off",
        token_attention="off",
        branch_weight=0.0,
        label_smoothing=0.0,
        refurbishes_labels=False,
        logit_adjustment=False,
        mixing=None,
    )
    return replace(config, recipe=recipe)


def _without_paths(value: Any) -> Any:
    """Convert paths to text; pydantic rejects those that are not UTF-8."""
    if isinstance(value, dict):
        return {name: _without_paths(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_without_paths(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _split(overrides: Sequence[str]) -> list[tuple[list[str], str]]:
    """Return keys and value of each override, outer keys first; none may contain another."""
    values: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set must be section.key=value; got {override!r}")
        for other in values:
            one, two = f"{_current(key)}.", f"{_current(other)}."
            if one.startswith(two) or two.startswith(one):
                raise ValueError(f"--set must give each key once; got {other} and {key}")
        values[key] = value
    split = ((_current(key).split("."), each) for key, each in values.items())
    return sorted(split, key=lambda change: len(change[0]))


def _current(key: str) -> str:
    """Return a key by the name that it has now."""
    section, _, name = key.rpartition(".")
    return f"recipe.{RENAMED.get(name, name)}" if section == "recipe" else key


def _override(content: dict[str, Any], keys: list[str], value: str) -> None:
    place = content
    for section in keys[:-1]:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ValueError(f"--set {'.'.join(keys)}: `{section}` holds a value, not keys")
    kind = _type_of(keys, content)
    if holds_text(kind) and not is_list(kind):
        place[keys[-1]] = None if value == "null" else value
        return
    try:
        place[keys[-1]] = read_yaml(value, all_text=holds_text(kind))
    except ValueError as error:
        raise ValueError(f"--set {'.'.join(keys)}: {error}; got {value!r}") from error


def _type_of(keys: list[str], content: Mapping[str, Any]) -> Any:
    """Return the type of a key's value; None if there is no such key."""
    return _types_in(keys[:-1], content).get(keys[-1])


def _types_in(section: Sequence[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the types of the keys of a section; empty if there is no such section."""
    if [*section] == ["encoder", "options"]:
        name = content["encoder"].get("name")
        return option_types(ENCODERS[name]) if name in ENCODERS else {}
    kind: Any = _type_of([*section], content) if section else RunConfig
    if get_origin(kind) is Annotated:
        options = [each.types for each in get_args(kind) if isinstance(each, OptionsOf)]
        return options[0] if options else {}
    return get_type_hints(kind, include_extras=True) if is_dataclass(kind) else {}


Known = Callable[[Sequence[str]], Iterable[str]]  # the keys of a section


def _explain_all(error: ValidationError, known: Known, within: str = "") -> str:
    return "; ".join(_explain(each, known, within) for each in error.errors())


def _explain(error: Any, known: Known, within: str) -> str:
    key = ".".join(str(part) for part in (*filter(None, [within]), *error["loc"]))
    kind, message = error["type"], str(error["msg"])
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key `{key}`; known are {', '.join(known(error['loc'][:-1]))}"
    message = message.removeprefix("Value error, ")
    message = re.sub(r"(Input|Keys) should", "must", message)
    if kind == "value_error" and "`" in message:  # it names a key of the section and its value
        return message.replace("`", f"`{key}.", 1)
    must = MUST.get(kind, message)
    return f"`{key}` {must}; got {error['input']!r:.200}"
