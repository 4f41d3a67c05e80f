"""Put a balancer on any classifier: find its embedding, leave the model as it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from reliability_balance.balancer import BalancerOptions, ReliabilityBalancer
from reliability_balance.fitting import FitOptions
from reliability_balance.output import BalancerOutput

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]


def wrap(
    model: nn.Module,
    num_classes: int | None = None,
    *,
    embedding: str | None = None,
    keep_head: bool = False,
    example_input: ExampleInput | None = None,
    **balancer_options: Unpack[BalancerOptions],
) -> "WrappedClassifier":
    """Wrap a classifier so that its forward gives a :class:`BalancerOutput`.

    The model is not changed: a forward hook reads the embedding as it passes, and
    :meth:`WrappedClassifier.unwrap` takes the hook off again.

    Args:
        model: any classifier: timm, torchvision, Hugging Face, or your own.
        num_classes: C; None for as many as the model's last layer has.
        embedding: None to take what enters the model's last linear layer. Otherwise the name of a
            layer whose output is the embedding, as in ``model.named_modules()``; the empty name
            is the model itself, for a feature extractor. A (B, D, H, W) feature map becomes H*W
            tokens.
        keep_head: True makes the model's own logits the primary branch. False gives the balancer
            a new head; the old last layer is then frozen, since nothing trains it.
        example_input: one batch for the model (a tensor, a tuple of arguments, or a mapping of
            keyword arguments). It is run once, in eval mode, and is needed where `embedding`
            names a layer whose width is not known; with it a wrong layer is found out here.
        **balancer_options: go to :class:`ReliabilityBalancer`.

    Raises:
        TypeError: if `model` is not a module, or the layer or the model gives no tensor.
        ValueError: if no layer of that name exists, no linear layer ends the model, the number
            of classes is not known or does not fit the kept head, or the layer's output is no
            embedding.

    Example:
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> model = wrap(classifier, num_classes=3)
        >>> output = model(torch.randn(2, 4, 4))
        >>> output.corrected.shape, output.embedding.shape
        (torch.Size([2, 3]), torch.Size([2, 8]))
        >>> model.unwrap() is classifier
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module; got {type(model).__name__}")
    classifier = _find_classifier(model)
    if num_classes is None:
        if classifier is None:
            raise ValueError(
                "`num_classes` must be given, since the model ends in no linear layer; got None"
            )
        num_classes = classifier.out_features
    if keep_head and classifier is not None and classifier.out_features != num_classes:
        raise ValueError(
            f"`num_classes` must be {classifier.out_features}, the width of the head that "
            f"keep_head=True keeps; got {num_classes}"
        )
    if embedding is not None:
        layer, tap = _named_layer(model, embedding), _Tap("output")
    elif classifier is not None:
        layer, tap = classifier, _Tap("input")
    else:
        raise ValueError(
            "`embedding` must name a layer, since the model ends in no linear layer; got None. "
            f"Layers: {_layer_names(model)}"
        )
    width = getattr(layer, "in_features" if tap.side == "input" else "out_features", None)
    unused = list(classifier.parameters()) if embedding is None and classifier else []
    handle = layer.register_forward_hook(tap)
    try:
        if example_input is not None:
            example = _run_example(model, tap, example_input)
            width = example.shape[-1]
            unused = _without_gradient(model, example)
        if width is None:
            raise ValueError(
                f"`example_input` must be given to learn the width of layer {embedding!r}; got None"
            )
        if keep_head:
            balancer_options.setdefault("head", None)
        balancer = ReliabilityBalancer(int(width), num_classes, **balancer_options)
    except BaseException:
        handle.remove()
        raise
    reference = next((p for p in model.parameters() if p.is_floating_point()), None)
    if reference is not None:
        balancer = balancer.to(reference.device, reference.dtype)
    return WrappedClassifier(
        model, balancer, tap, handle, keep_head=keep_head, frozen=[] if keep_head else unused
    )


class WrappedClassifier(nn.Module):
    """A classifier and its balancer; made by :func:`wrap`.

    ``model`` and ``balancer`` are submodules, so one ``state_dict`` holds both, and the model's
    own names come back behind ``model.``.

    Example:
        >>> model = wrap(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
        >>> sorted({name.split(".")[0] for name in model.state_dict()})
        ['balancer', 'model']
    """

    def __init__(
        self,
        model: nn.Module,
        balancer: ReliabilityBalancer,
        tap: "_Tap",
        handle: torch.utils.hooks.RemovableHandle,
        *,
        keep_head: bool,
        frozen: list[nn.Parameter],
    ) -> None:
        super().__init__()
        self.model = model
        self.balancer = balancer
        self.keep_head = keep_head
        self._tap = tap
        self._handle = handle
        self._frozen = [parameter for parameter in frozen if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> BalancerOutput:
        """Call the model with these arguments, and the balancer with what it gives."""
        embedding, logits = self._run(*args, **kwargs)
        output: BalancerOutput = self.balancer(embedding, logits if self.keep_head else None)
        return output

    def embed(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the embedding alone, (B, D) or (B, T, D): what :meth:`fit_head` takes."""
        return self._run(*args, **kwargs)[0]

    def fit_head(
        self, features: Tensor, labels: Tensor, **options: Unpack[FitOptions]
    ) -> list[float]:
        """Train the balancer alone on stored embeddings; see :func:`fitting.fit_head`.

        With ``keep_head=True`` the kept last layer answers for the stored embeddings; where the
        embedding is a named layer, give the model's logits as `primary_logits`.

        Raises:
            ValueError: if those logits are missing, and as :func:`fitting.fit_head` does.
        """
        if self.keep_head and options.get("primary_logits") is None:
            if self._tap.side == "output":
                raise ValueError(
                    "`primary_logits` must be given, since keep_head=True and a named embedding "
                    "layer leave them unknown; got None"
                )
            classifier = _find_classifier(self.model)
            assert classifier is not None
            with torch.no_grad():
                weight = classifier.weight
                options["primary_logits"] = classifier(features.to(weight.device, weight.dtype))
        return self.balancer.fit_head(features, labels, **options)

    def unwrap(self) -> nn.Module:
        """Take the hook off and return the model, as it was but for what training changed."""
        self._handle.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
        return self.model

    def _run(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        with self._tap.listening():
            logits = _first_tensor(self.model(*args, **kwargs), "the model's output")
            return self._tap.embedding(), logits


class _Tap:
    """Forward hook that keeps what passes one layer, while someone listens."""

    def __init__(self, side: Literal["input", "output"]) -> None:
        self.side = side
        self._is_listening = False
        self._seen: Any = None

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._is_listening:
            self._seen = args[0] if self.side == "input" else output

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._is_listening, self._seen = True, None
        try:
            yield
        finally:
            # Holding on to a graph would keep its memory, and forbid deepcopy and pickle.
            self._is_listening, self._seen = False, None

    def embedding(self) -> Tensor:
        if self._seen is None:
            raise RuntimeError(
                "the layer that gives the embedding did not run: the model was unwrapped, or "
                "another layer must be named as `embedding`"
            )
        embedding = _first_tensor(self._seen, "the embedding layer's output")
        # A (B, D, H, W) feature map is H*W tokens of width D.
        return embedding.flatten(2).transpose(1, 2) if embedding.ndim == 4 else embedding


def _first_tensor(output: Any, what: str) -> Tensor:
    """A tensor itself, the ``logits`` of a model's output object, or its first entry."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    entries = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(entries, (tuple, list)) and entries and isinstance(entries[0], Tensor):
        return entries[0]
    raise TypeError(f"{what} must be a tensor, or begin with one; got {type(output).__name__}")


def _find_classifier(model: nn.Module) -> nn.Linear | None:
    """What timm's ``get_classifier`` tells, else the linear layer that was registered last."""
    get_classifier = getattr(model, "get_classifier", None)
    if callable(get_classifier) and isinstance(classifier := get_classifier(), nn.Linear):
        return classifier
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _named_layer(model: nn.Module, name: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(model.named_modules())
    if name not in layers:
        raise ValueError(
            f"`embedding` must name a layer of the model; got {name!r}. "
            f"Layers: {_layer_names(model)}"
        )
    return layers[name]


def _layer_names(model: nn.Module, limit: int = 30) -> str:
    names = [name for name, _ in model.named_modules() if name]
    more = f", … and {len(names) - limit} before" if len(names) > limit else ""
    return ", ".join(names[-limit:]) + more


def _run_example(model: nn.Module, tap: _Tap, example_input: ExampleInput) -> Tensor:
    """The embedding of one batch, in eval mode, so that no running statistics move."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with tap.listening(), torch.enable_grad():
            if isinstance(example_input, Mapping):
                model(**example_input)
            elif isinstance(example_input, tuple):
                model(*example_input)
            else:
                model(example_input)
            embedding = tap.embedding()
    finally:
        for module, mode in training.items():
            module.training = mode
    if embedding.ndim not in (2, 3):
        raise ValueError(
            "`embedding` must name a layer that gives (B, D), (B, T, D) or (B, D, H, W); "
            f"got {tuple(embedding.shape)}"
        )
    return embedding


def _without_gradient(model: nn.Module, embedding: Tensor) -> list[nn.Parameter]:
    """Parameters that the embedding does not depend on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not embedding.requires_grad:
        return parameters
    gradients = torch.autograd.grad(embedding.sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is None]
