"""Recipes: everything that decides a run, read strictly from YAML and kept with the run.

A recipe is a YAML file of the five sections below. A key that no section knows, or a value of the
wrong kind, is an error that names the file and the key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from faces.reading import CorruptPolicy, DatasetName
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from reliability_balance.recipes import AttentionMode, RecipeName

RECIPE_FOLDER = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Place = Annotated[Path, AfterValidator(Path.expanduser)]  # the shell leaves the ~ in a=~/b
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

STRICT = ConfigDict(extra="forbid")


def _unquoted_off(value: Any) -> Any:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


@dataclass(frozen=True, config=STRICT)
class Data:
    """What is trained on, and how it is changed on the way (4.2).

    Args:
        dataset: name of a data set, see :mod:`faces.reading`.
        root: its folder; of rendered faces the cache, which has a place where none is given.
        rendered: of rendered faces the `difficulty`, and what is to differ from it in
            :class:`RenderedFacesSettings`.
        splits: of data sets in files, those of :class:`SplitOptions`.
        corrupt: whether damaged images are an error ("error") or left out and reported ("skip");
            both decode all images beforehand, which "unchecked" does not.
        max_missing: share of the faces that may be left out, or be of a class that stands in
            one split alone, before that is an error.
        image_size: pixels a side that the encoder sees.
        augmentation: strength, from 0 for the random crop alone to 2.
        per_group: images of each video or face that an epoch draws from, at most.
        per_class: images of each class in an epoch; None for no refinement at all.
        soft_labels: whether to train on the votes of FER+ or JAFFE rather than on the labels.
        workers: processes that load images; 0 loads in the main process.
    """

    dataset: DatasetName = "rendered"
    root: Place | None = None
    rendered: dict[str, Any] = Field(default_factory=dict)
    splits: dict[str, Any] = Field(default_factory=dict)
    corrupt: CorruptPolicy = "error"
    max_missing: Annotated[float, Field(ge=0, le=1)] = 0.1
    image_size: Annotated[int, Field(ge=16)] = 64
    augmentation: Annotated[float, Field(ge=0, le=2)] = 1.0
    per_group: Count = 512
    per_class: Count | None = 500
    soft_labels: bool = False
    workers: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class Encoder:
    """The network that turns a face into an embedding.

    Args:
        name: as in :mod:`encoders`.
        options: keyword arguments of that encoder.
        ir50: file of weights that the image branch starts from.
        mobilefacenet: file of weights that the landmark branch starts from.
    """

    name: str = "poster_v2_tiny"
    options: dict[str, Any] = Field(default_factory=dict)
    ir50: Place | None = None
    mobilefacenet: Place | None = None


@dataclass(frozen=True, config=STRICT)
class Balancer:
    """Options of :class:`ReliabilityBalancer`; None takes the value of its recipe.

    Args:
        recipe: "paper" or "robust".
        num_anchors: of each class.
        head: of the primary branch.
        attention: what the attentive correction works on.
        delta: temperature of the anchors.
        class_prior: whether to train on the classes' frequencies and answer for even ones; not
            beside refined epochs, whose classes are even by themselves.
    """

    recipe: RecipeName = "robust"
    num_anchors: Annotated[int, Field(ge=0)] = 8
    head: Literal["mlp", "linear"] = "mlp"
    attention: Annotated[AttentionMode | None, BeforeValidator(_unquoted_off)] = None
    delta: Positive | None = None
    class_prior: bool = False


@dataclass(frozen=True, config=STRICT)
class Loss:
    """Weights of :class:`ReliabilityLoss` (Eq. 23); None takes the value of the recipe."""

    classification_weight: Weight = 1.0
    anchor_weight: Weight | None = None
    center_weight: Weight | None = None
    branch_weight: Weight | None = None
    label_smoothing: Share | None = None


@dataclass(frozen=True, config=STRICT)
class Targets:
    """What becomes of the labels; `enabled: false` trains on them as they are.

    Args:
        enabled: whether to learn which labels to doubt, see :class:`RefurbishedTargets`.
        momentum: of its averages; None for the mean of all predictions.
        temperature: of its averages.
        noise_temperature: of the beliefs that noise is counted from; below 1 sharpens them.
        prior_count: recognised samples of a class at which its labels are half doubted.
        warmup: times that a face is seen before its label is doubted; refined epochs show a face
            of a frequent class far less than once.
        held_back: share of the labels that are held back until then, to learn what is memory.
        mixing: concentration of :func:`mix`, which trains between the samples; None for not.
        mix_from: epochs before that begins.
    """

    enabled: bool = True
    momentum: Share | None = 0.9
    temperature: Positive = 0.5
    noise_temperature: Positive = 1.0
    prior_count: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 3
    held_back: Share = 0.0
    mixing: Positive | None = 1.0
    mix_from: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class Optimization:
    """How it is trained (4.3): Adam, its rate decaying by a factor each epoch.

    Args:
        epochs: at most.
        batch_size: images in one forward pass, over all processes together.
        learning_rate: of Adam in the first epoch.
        decay: factor on the learning rate after each epoch.
        accumulate: batches to a step.
        gradient_clip: greatest norm of the gradient; None for no limit.
        precision: "32-true", or mixed with "bf16-mixed" or "16-mixed".
        patience: epochs without a better validation accuracy before training stops; None for never.
        checkpoint_steps: batches between two resume points within an epoch.
    """

    epochs: Count = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Positive = 3e-4
    decay: Annotated[float, Field(gt=0, le=1)] = 0.995
    accumulate: Count = 1
    gradient_clip: Positive | None = 1.0
    precision: Precision = "32-true"
    patience: Count | None = None
    checkpoint_steps: Count = 100


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """One run, whole."""

    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    encoder: Encoder = Encoder()
    balancer: Balancer = Balancer()
    loss: Loss = Loss()
    targets: Targets = Targets()
    optimization: Optimization = Optimization()


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by the name of a file in ``recipes/``, or by the path of one's own.

    Args:
        name: "paper", "robust", "quick", or the path of a YAML file.
        overrides: ``section.key=value``, the value in YAML; they win over the file.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: on broken YAML, an unknown key, or a value out of range; it names file and key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPE_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in RECIPE_FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"`recipe` must be one of {known}, or a YAML file; got {name}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold sections with keys; got {type(content).__name__}")
    return override_recipe(parse_recipe(content, where=str(path)), overrides)


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Change single values of a recipe.

    Args:
        recipe: what to change.
        overrides: ``section.key=value``, the value in YAML.

    Raises:
        ValueError: on an unknown key, or a value out of range; it names the key.
    """
    content = as_plain(recipe)
    for override in overrides:
        _override(content, override)
    return parse_recipe(content, where="--set") if overrides else recipe


def parse_recipe(content: Mapping[str, Any], *, where: str) -> Recipe:
    """Turn nested mappings into a recipe; `where` begins each error."""
    try:
        return TypeAdapter(Recipe).validate_python(content)
    except ValidationError as error:
        raise ValueError(
            "\n".join(f"{where}: {_explain(each)}" for each in error.errors())
        ) from error


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML, with every default in it; :func:`load_recipe` reads it back."""
    text: str = yaml.safe_dump(as_plain(recipe), sort_keys=False)
    return text


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """Nested dictionaries of what JSON and YAML know."""
    plain: dict[str, Any] = TypeAdapter(Recipe).dump_python(recipe, mode="json")
    return plain


def plain_cross_entropy(recipe: Recipe) -> Recipe:
    """The same encoder, data and budget with an ordinary head and loss: what to compare with."""
    return replace(
        recipe,
        balancer=replace(recipe.balancer, num_anchors=0, attention="off", class_prior=False),
        loss=Loss(branch_weight=0.0, label_smoothing=0.0),
        targets=Targets(enabled=False),
    )


def _override(content: dict[str, Any], override: str) -> None:
    keys, equals, value = override.partition("=")
    if not equals or not keys:
        raise ValueError(f"--set must be section.key=value; got {override!r}")
    *sections, last = keys.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ValueError(f"--set {override}: `{section}` holds a value, not keys")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: the value must be YAML: {error}") from error


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown key `{key}`"
    return f"`{key}`: {error['msg']}; got {error['input']!r}"
