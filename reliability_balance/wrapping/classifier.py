"""Add a balancer to any classifier without changing it: find and verify its embedding."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from reliability_balance import checks
from reliability_balance.core.attention import pool_tokens
from reliability_balance.core.balancer import BalancerOptions, ReliabilityBalancer
from reliability_balance.core.output import BalancerOutput
from reliability_balance.core.recipes import get_recipe
from reliability_balance.core.settings import Configured
from reliability_balance.wrapping.example import (
    LAYOUTS,
    ExampleInput,
    Layout,
    call_arguments,
    channel_axis,
    ends_in_linear,
    evaluating,
    logits_of,
    prove_classifier,
    without_gradient,
)
from reliability_balance.wrapping.source import (
    MASK_ARGUMENT,
    Embedded,
    EmbeddingSource,
    compiled_part,
    find_classifier,
    layer_named,
    layer_names,
    num_outputs,
    own_parameters,
    refuse_unwrappable,
)
from reliability_balance.wrapping.tap import Side

HEAD_BATCH = 4096  # stored embeddings in one call of a kept head


def wrap(
    model: nn.Module,
    num_classes: int | None = None,
    *,
    embedding: str | None = None,
    layout: Layout | None = None,
    output: str | int | None = None,
    token_mask: str | None = MASK_ARGUMENT,
    keep_head: bool = False,
    example_input: ExampleInput | None = None,
    **balancer_options: Unpack[BalancerOptions],
) -> "WrappedClassifier":
    """Wrap a classifier so that its forward gives a :class:`BalancerOutput`.

    The model's code is not changed: a forward hook reads the embedding, and
    :meth:`WrappedClassifier.unwrap` removes the hook. Training updates the model's weights, but its
    last layer only with ``keep_head=True``. Without it, the trained model predicts at chance once
    it is unwrapped.

    The embedding is the input of the model's last linear layer. With `example_input`, or else at
    the first call, `wrap` checks that this layer, applied to the embedding, gives the model's
    logits. If it does not, an error says what differs. If the model picks one token, as decoders
    do, the embedding is that token's. An embedding that you name cannot be checked in this way; the
    ``repr`` says which case it is.

    Args:
        model: any classifier: timm, torchvision, Hugging Face, or your own. Wrap it before it is
            compiled, made parallel or offloaded.
        num_classes: C. None: the number of the model's logits. For a named layer, an example must
            show them.
        embedding: name of the layer whose output is the embedding, as in ``model.named_modules()``.
            The empty name is the model itself, for a feature extractor. Feature maps and sequences
            become tokens. None: the input of the model's last linear layer.
        layout: of the named layer's output: "channels_first" for (B, D, H, W), "channels_last" for
            (B, H, W, D). None: inferred from the neighbouring layers, with an error if they do not
            decide it.
        output: name or index of the logits in what the model returns. None: the returned tensor,
            its entry ``logits``, or the only tensor in it.
        token_mask: name of the call's argument (B, T) that is 1 for tokens and 0 for padding, with
            a ``~`` before it if it is 1 for padding. A call may leave it out. None: no padding.
        keep_head: True makes the model's own logits the primary branch; where the model ends in a
            softmax, the input of that softmax. False gives the balancer a new head and freezes the
            parameters that only the old last layer uses; with a named layer and an example, all
            that the logits depend on and the embedding does not.
        example_input: one batch for the model (a tensor, a tuple of arguments, or a mapping of
            keyword arguments), run in eval mode. With it, all linear layers are tried and the
            embedding is verified now; it is needed for a named layer that is not linear.
            A warning names trainable parameters that the embedding does not depend on.
            If the example shows that the embedding has tokens, the balancer gets the recipe's
            token attention; without it, and for one vector, the robust recipe has none.
        **balancer_options: passed to :class:`ReliabilityBalancer`, which is created on the device
            and in the dtype of the layer that gives the embedding.

    Raises:
        TypeError: if `model` is not a module, or the layer or the model outputs no tensor.
        ValueError: if the model is compiled, parallel, offloaded or wrapped already; if no layer
            has that name, no linear layer gives the logits, the number of classes is unknown or
            does not match the kept head, the layer's output is not an embedding, or `head` is given
            with ``keep_head=True``.

    Example:
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> model = wrap(classifier, num_classes=3, example_input=torch.randn(2, 4, 4))
        >>> output = model.eval()(torch.randn(2, 4, 4))
        >>> output.corrected.shape, output.embedding.shape
        (torch.Size([2, 3]), torch.Size([2, 8]))
        >>> model.source
        input of '3', which gives the model's logits
        >>> model.unwrap() is classifier
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}")
    if unknown := balancer_options.keys() - BalancerOptions.__annotations__.keys():
        raise TypeError(
            f"`wrap` takes options of its own and of ReliabilityBalancer, which are "
            f"{', '.join(BalancerOptions.__annotations__)}; got {min(unknown)!r}"
        )
    if keep_head and balancer_options.setdefault("head", None) is not None:
        raise ValueError(
            f"`head` must be None with keep_head=True; got {balancer_options['head']!r}"
        )
    if layout is not None:
        checks.one_of("layout", layout, LAYOUTS)
        if embedding is None or example_input is None:
            raise ValueError(
                "`layout` must be None without a named `embedding` and an `example_input`; "
                f"got {layout!r}"
            )
    refuse_unwrappable(model)
    if example_input is None:
        found = _guess(model, embedding, output, token_mask)
    else:
        found = _examine(model, embedding, layout, output, token_mask, keep_head, example_input)
    source = found.source
    try:
        num_classes = _num_classes(found, num_classes, keep_head=keep_head)
        balancer = _balancer_for(found, num_classes, balancer_options)
        balancer = _to_device_of(model, source.layer, balancer)
    except BaseException:
        source.tap.release()
        raise
    wrapped = WrappedClassifier(
        model, balancer, source, keep_head=keep_head, frozen=[] if keep_head else found.unneeded
    )
    # Take over the model's mode; a later train() or eval() sets both.
    wrapped.training = model.training
    balancer.train(model.training)
    if found.embedding is not None and not keep_head:
        _warn_of_unused(model, found.embedding)
    return wrapped


def attach(
    model: nn.Module,
    balancer: ReliabilityBalancer,
    *,
    keep_head: bool,
    layer: str,
    side: Side,
    channels: int = -1,
    output: str | int | None = None,
    token_mask: str | None = MASK_ARGUMENT,
    old: "WrappedClassifier | None" = None,
) -> "WrappedClassifier":
    """Wrap a model with the settings of another wrapper, as a checkpoint stores them.

    An `old` wrapper of the model is removed last, once nothing else can fail.

    Raises:
        ValueError: if the model has no such layer, hides it, or has a wrapper that is not `old`.
    """
    if old is None:
        refuse_unwrappable(model)
    checks.one_of("side", side, ("input", "output"))
    balancer = _to_device_of(model, layer_named(model, layer), balancer)
    source = EmbeddingSource(
        model, layer, side=side, channels=channels, output=output, token_mask=token_mask
    )
    if old is not None:
        old.source.tap.release()
    is_replaced = side == "input" and not keep_head
    return WrappedClassifier(
        model,
        balancer,
        source,
        keep_head=keep_head,
        frozen=own_parameters(model, source.layer) if is_replaced else [],
    )


class _Found(NamedTuple):
    """An embedding's source, its width, and what an example showed."""

    source: EmbeddingSource
    width: int
    num_outputs: int | None
    unneeded: list[tuple[nn.Module, str]]
    embedding: Tensor | None = None


def _guess(
    model: nn.Module, embedding: str | None, output: str | int | None, token_mask: str | None
) -> _Found:
    """Locate the embedding from the model's layers; the first call verifies it."""
    name, side = _place(model, embedding)
    layer = layer_named(model, name)
    width = getattr(layer, "in_features" if side == "input" else "out_features", None)
    if embedding is None and side == "output":
        # timm: a model without a head gives features of this width.
        width = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", None)
    if not isinstance(width, int) or width < 1:
        raise ValueError(
            f"`example_input` must be given to learn the width of layer {name!r}; got None"
        )
    source = EmbeddingSource(model, name, side=side, output=output, token_mask=token_mask)
    if side == "output":
        return _Found(source, width, None, [])
    return _Found(source, width, num_outputs(layer), own_parameters(model, layer))


def _examine(
    model: nn.Module,
    embedding: str | None,
    layout: Layout | None,
    output: str | int | None,
    token_mask: str | None,
    keep_head: bool,
    example_input: ExampleInput,
) -> _Found:
    """Locate and verify the embedding by running an example."""
    args, kwargs = call_arguments(example_input)
    name, side = _place(model, embedding)
    with evaluating(model):
        if side == "input":
            source, value = prove_classifier(
                model, args, kwargs, output=output, token_mask=token_mask
            )
            own = _unused_of(model, source.layer, value)
            return _Found(source, value.shape[-1], num_outputs(source.layer), own, value)
        channels = channel_axis(model, layer_named(model, name), args, kwargs, layout)
        source = EmbeddingSource(
            model, name, side=side, channels=channels, output=output, token_mask=token_mask
        )
        try:
            value = source.read(model, args, kwargs).embedding
            logits = logits_of(model, args, kwargs, output)
            # A feature extractor's last layer is not a head: the embedding depends on it.
            head = [] if logits is None else _head_between(model, value, logits)
            is_classifier = name != "" and (
                bool(head)
                or keep_head
                or ends_in_linear(model, args, kwargs, output=output, token_mask=token_mask)
            )
        except BaseException:
            source.tap.release()
            raise
        num_logits = None
        if is_classifier and logits is not None and logits.ndim == 2:
            num_logits = logits.shape[-1]
        return _Found(source, value.shape[-1], num_logits, head, value)


def _unused_of(
    model: nn.Module, layer: nn.Module, embedding: Tensor
) -> list[tuple[nn.Module, str]]:
    """Return the layer's own parameters that the embedding does not depend on."""
    unused = {id(model.get_parameter(name)) for name in without_gradient(model, embedding)}
    own = own_parameters(model, layer)
    return [(module, name) for module, name in own if id(module._parameters[name]) in unused]


def _head_between(
    model: nn.Module, embedding: Tensor, logits: Tensor
) -> list[tuple[nn.Module, str]]:
    """Return the trainable parameters that the logits depend on and the embedding does not."""
    after = set(without_gradient(model, embedding)) - set(without_gradient(model, logits))
    head = {id(model.get_parameter(name)) for name in after}
    return [
        (module, name)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) in head
    ]


def _place(model: nn.Module, embedding: str | None) -> tuple[str, Side]:
    """Return the layer to read and its side, without running the model."""
    side: Side = "output"
    name = embedding
    if name is None:
        found = find_classifier(model)
        if found is None:
            raise ValueError(
                "`embedding` must name a layer, since the model ends in no linear layer; got None. "
                f"Layers: {layer_names(model)}"
            )
        name, layer = found
        if isinstance(layer, nn.Identity):
            name = ""  # timm's classifier was removed: the model's output is the embedding
        else:
            side = "input"
    part = compiled_part(model, layer_named(model, name))
    if part is not None:
        raise ValueError(
            f"`model` must be wrapped before it is compiled; got a model of which {part!r} is "
            "compiled: wrap the original, then compile the wrapped model"
        )
    return name, side


def _num_classes(found: _Found, num_classes: int | None, *, keep_head: bool) -> int:
    """Return the number of classes, given or found; it must fit a kept head."""
    if num_classes is None:
        num_classes = found.num_outputs
    if num_classes is None:
        raise ValueError(
            "`num_classes` must be given, since the model's layers do not show it; got None"
        )
    if num_classes == found.num_outputs == 1:
        raise ValueError(
            "`model` must have an output for each class; got one with a single output: give it "
            "two, or pass num_classes=2 for a new head (labels 0 and 1, no sigmoid)"
        )
    if keep_head and found.num_outputs not in (None, num_classes):
        raise ValueError(
            f"`num_classes` must be {found.num_outputs}, the width of the head that "
            f"keep_head=True keeps; got {num_classes}"
        )
    return num_classes


def _balancer_for(found: _Found, num_classes: int, options: BalancerOptions) -> ReliabilityBalancer:
    """Build a balancer with these options, and attention if an example showed tokens."""
    has_tokens = found.embedding is not None and found.embedding.ndim == 3
    if has_tokens and options.get("attention") is None:
        recipe = get_recipe(options.get("recipe", "robust"))
        options = {**options, "attention": recipe.token_attention}
    return ReliabilityBalancer(found.width, num_classes, **options)


def _to_device_of(
    model: nn.Module, layer: nn.Module, balancer: ReliabilityBalancer
) -> ReliabilityBalancer:
    """Move a balancer to the device and dtype of a layer, or else of its model."""
    nearest = (parameter for part in (layer, model) for parameter in part.parameters())
    reference = next((each for each in nearest if each.is_floating_point()), None)
    if reference is not None and reference.is_meta:
        raise ValueError(
            "`model` must hold its weights; got a model whose last layer is on the meta device: "
            "wrap it before it is offloaded, or after its weights are loaded"
        )
    return balancer if reference is None else balancer.to(reference.device, reference.dtype)


def _warn_of_unused(model: nn.Module, embedding: Tensor) -> None:
    """Warn of trainable parameters that an example's embedding does not depend on."""
    names = without_gradient(model, embedding)
    if names:
        checks.warn(
            "trainable parameters that the embedding of `example_input` does not depend on: "
            f"{checks.listed(names)}. Freeze them by requires_grad_(False), unless they act in "
            "training or on other inputs; DistributedDataParallel fails if one gets no gradient"
        )


class WrappedClassifier(Configured):
    """A classifier with its balancer; created by :func:`wrap`.

    ``model`` and ``balancer`` are submodules, so one ``state_dict`` holds both, with the prefix
    ``model.`` before the model's own names. ``source`` shows where the embedding is read.

    Example:
        >>> model = wrap(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
        >>> sorted({name.split(".")[0] for name in model.state_dict()})
        ['balancer', 'model']
    """

    SETTINGS: ClassVar = {
        "keep_head": bool,
        "layer": str,
        "side": str,
        "channels": int,
        "output": str | int | None,
        "token_mask": str | None,
    }

    def __init__(
        self,
        model: nn.Module,
        balancer: ReliabilityBalancer,
        source: EmbeddingSource,
        *,
        keep_head: bool,
        frozen: Sequence[tuple[nn.Module, str]] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.balancer = balancer
        self.source = source
        self.keep_head = keep_head
        self._replaces_head = bool(frozen)
        self._has_trained_model = False
        source.tap.claim(self)
        source.tap.freeze(frozen)

    def forward(self, *args: Any, **kwargs: Any) -> BalancerOutput:
        """Call the model with these arguments, then the balancer on its embedding."""
        embedded = self._read(args, kwargs, wants_logits=self.keep_head)
        if self.training and embedded.embedding.requires_grad:
            self._has_trained_model = True
        output: BalancerOutput = self.balancer(
            embedded.embedding, embedded.logits, token_mask=embedded.token_mask
        )
        return output

    def embed(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the embedding alone, (B, D) or (B, T, D), as input for :func:`labels.fit_head`.

        Raises:
            ValueError: if some tokens are padding; :meth:`embed_tokens` returns their mask.
        """
        embedding, mask = self.embed_tokens(*args, **kwargs)
        if mask is not None and checks.can_read_values() and not bool(mask.all()):
            raise ValueError(
                "`embed` must get inputs without padding, since it returns no mask; got "
                f"{int((~mask).sum())} padded tokens: take `embed_tokens`"
            )
        return embedding

    def embed_tokens(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Return the embedding and its token mask (B, T). None: no padding."""
        embedded = self._read(args, kwargs, wants_logits=False)
        return embedded.embedding, embedded.token_mask

    def _read(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, wants_logits: bool
    ) -> Embedded:
        return self.source.read(
            self.model,
            args,
            kwargs,
            wants_logits=wants_logits,
            is_training=self.training,
            validate=self.balancer.validate_args,
        )

    def primary_logits(self, features: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Return the kept head's logits (N, C) for embeddings that :meth:`embed` gave.

        With ``keep_head=True`` they are the `primary_logits` of :func:`labels.fit_head`.

        Raises:
            ValueError: if the embedding is the output of a named layer: keep the model's logits.
        """
        if self.source.side == "output":
            raise ValueError(
                "`primary_logits` needs the input of the last layer as embedding, since the "
                f"model's logits cannot be computed from the {self.source!r}: keep the logits"
            )
        weight = next(self.source.layer.parameters(), next(self.model.parameters()))
        pooled = pool_tokens(features, token_mask)
        # A head may have dropout, as adapters do.
        with evaluating(self.source.layer), torch.no_grad():
            return torch.cat(
                [
                    self.source.layer(part.to(weight.device, weight.dtype)).to(features.device)
                    for part in pooled.split(HEAD_BATCH)
                ]
            )

    def unwrap(self) -> nn.Module:
        """Remove the hook and return the model with its trained weights.

        With ``keep_head=False`` its last layer was frozen and is as before :func:`wrap`, so a
        trained model predicts at chance. Save the wrapped model instead (:func:`checkpoint.save`),
        or wrap with ``keep_head=True``, where the model predicts like the primary branch.

        Warns:
            UserWarning: if the model was called in training mode with ``keep_head=False`` and
                trainable weights before its last layer. Training in eval mode, and trained weights
                loaded from a file, are not noticed: the model predicts at chance then, too.
        """
        if self._replaces_head and self._has_trained_model:
            checks.warn(
                "the model's last layer was not trained, since keep_head=False: after `unwrap` the "
                "model predicts at chance. Save the wrapped model, or wrap with keep_head=True"
            )
        self.source.tap.release()
        return self.model

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.source.tap.claim(self)

    def __del__(self) -> None:
        """Unwrap the model when its wrapper is garbage-collected."""
        source = self.__dict__.get("source")
        if source is not None and source.tap.belongs_to(self):
            source.tap.release()

    def settings(self) -> dict[str, Any]:
        """Return what :func:`attach` takes; not enough to build the model, which is the user's."""
        return {"keep_head": self.keep_head, **self.source.settings()}

    def extra_repr(self) -> str:
        """Return the settings that the submodules do not show."""
        return f"embedding: {self.source!r}; keep_head={self.keep_head}"
