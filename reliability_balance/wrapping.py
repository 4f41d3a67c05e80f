"""Put a balancer on any classifier: find its embedding, leave the model as it is."""

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from reliability_balance._tap import (
    ExampleInput,
    Tap,
    check_is_last,
    find_classifier,
    is_answer,
    layer_names,
    named_layer,
    run_example,
    without_gradient,
)
from reliability_balance.balancer import BalancerOptions, ReliabilityBalancer
from reliability_balance.fitting import FitOptions
from reliability_balance.output import BalancerOutput

ANSWERED_AT_ONCE = 4096  # stored embeddings that a kept head answers for


def wrap(  # noqa: C901
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
            a new head; the old last layer is then frozen, since nothing trains it, and with
            `example_input` whatever else the embedding does not depend on: thaw what a loss of
            your own trains.
        example_input: one batch for the model (a tensor, a tuple of arguments, or a mapping of
            keyword arguments). It is run once, in eval mode, and is needed where `embedding`
            names a layer whose width is not known; with it a wrong layer is found out here, also
            where the linear layer that was registered last is not the one that answers.
        **balancer_options: go to :class:`ReliabilityBalancer`, which is placed beside the layer
            that gives the embedding, in its dtype.

    Raises:
        TypeError: if `model` is not a module, or the layer or the model gives no tensor.
        ValueError: if no layer of that name exists, no linear layer ends the model, the number
            of classes is not known or does not fit the kept head, the layer's output is no
            embedding, or a new `head` is asked for beside the kept one.

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
    if keep_head and balancer_options.setdefault("head", None) is not None:
        raise ValueError(
            f"`head` must be None beside keep_head=True; got {balancer_options['head']!r}"
        )
    classifier = find_classifier(model)
    if embedding is not None:
        layer, tap = named_layer(model, embedding), Tap("output")
    elif classifier is not None:
        layer, tap = classifier, Tap("input")
    else:
        raise ValueError(
            "`embedding` must name a layer, since the model ends in no linear layer; got None. "
            f"Layers: {layer_names(model)}"
        )
    width = getattr(layer, "in_features" if tap.side == "input" else "out_features", None)
    num_outputs = None if classifier is None else classifier.out_features
    unused = list(classifier.parameters()) if embedding is None and classifier else []
    head_answers = embedding is None
    handle = layer.register_forward_hook(tap)
    try:
        if example_input is not None:
            example, logits = run_example(model, tap, example_input)
            if embedding is None and classifier is not None:
                check_is_last(model, classifier, logits)
                head_answers = is_answer(classifier, example, logits)
            width, num_outputs = example.shape[-1], logits.shape[-1]
            unused = without_gradient(model, example)
        if width is None:
            raise ValueError(
                f"`example_input` must be given to learn the width of layer {embedding!r}; got None"
            )
        if num_classes is None:
            if num_outputs is None or embedding == "":
                raise ValueError(
                    "`num_classes` must be given, since no layer of the model tells it; got None"
                )
            num_classes = num_outputs
        # Without an example, a named embedding leaves open which layer answers.
        is_certain = embedding is None or example_input is not None
        if keep_head and is_certain and num_outputs != num_classes:
            raise ValueError(
                f"`num_classes` must be {num_outputs}, the width of the head that "
                f"keep_head=True keeps; got {num_classes}"
            )
        balancer = ReliabilityBalancer(int(width), num_classes, **balancer_options)
    except BaseException:
        handle.remove()
        raise
    nearest = (parameter for part in (layer, model) for parameter in part.parameters())
    reference = next((each for each in nearest if each.is_floating_point()), None)
    if reference is not None:
        balancer = balancer.to(reference.device, reference.dtype)
    return WrappedClassifier(
        model,
        balancer,
        tap,
        handle,
        keep_head=keep_head,
        head_answers=head_answers,
        frozen=[] if keep_head else unused,
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
        tap: Tap,
        handle: torch.utils.hooks.RemovableHandle,
        *,
        keep_head: bool,
        head_answers: bool,
        frozen: list[nn.Parameter],
    ) -> None:
        super().__init__()
        self.model = model
        self.balancer = balancer
        self.keep_head = keep_head
        self._head_answers = head_answers
        self._tap = tap
        self._handle = handle
        self._frozen = [parameter for parameter in frozen if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> BalancerOutput:
        """Call the model with these arguments, and the balancer with what it gives."""
        embedding, logits = self._tap.run(self.model, args, kwargs)
        output: BalancerOutput = self.balancer(embedding, logits if self.keep_head else None)
        return output

    def embed(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the embedding alone, (B, D) or (B, T, D): what :meth:`fit_head` takes."""
        return self._tap.run(self.model, args, kwargs)[0]

    def fit_head(
        self, features: Tensor, labels: Tensor, **options: Unpack[FitOptions]
    ) -> list[float]:
        """Train the balancer alone on stored embeddings; see :func:`fitting.fit_head`.

        With ``keep_head=True`` the kept last layer answers for the stored embeddings; where the
        embedding is a named layer, or the model does more behind that layer, give the model's
        logits as `primary_logits`.

        Raises:
            ValueError: if those logits are missing, and as :func:`fitting.fit_head` does.
        """
        if self.keep_head and options.get("primary_logits") is None:
            if not self._head_answers:
                raise ValueError(
                    "`primary_logits` must be given, since with keep_head=True the model's answer "
                    "is not that of its last linear layer on the embedding; got None"
                )
            classifier = find_classifier(self.model)
            assert classifier is not None
            with torch.no_grad():
                weight = classifier.weight
                options["primary_logits"] = torch.cat(
                    [
                        classifier(part.to(weight.device, weight.dtype)).to(features.device)
                        for part in features.split(ANSWERED_AT_ONCE)
                    ]
                )
        return self.balancer.fit_head(features, labels, **options)

    def unwrap(self) -> nn.Module:
        """Take the hook off and return the model, as it was but for what training changed."""
        self._handle.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
        return self.model
