"""The reliability balancer, from an embedding to a corrected label distribution."""

import warnings
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn
from typing_extensions import Self

from reliability_balance import checks, numerics
from reliability_balance import functional as RF
from reliability_balance.core import clustering
from reliability_balance.core.attention import AttentiveCorrection, pool_tokens
from reliability_balance.core.heads import MLPHead, add_outputs, append_rows
from reliability_balance.core.output import BalancerOutput
from reliability_balance.core.recipes import (
    ATTENTION_MODES,
    HEAD_NAMES,
    AttentionMode,
    HeadName,
    Recipe,
    RecipeName,
    get_recipe,
)
from reliability_balance.core.settings import Configured

OWN_HEAD = "own"
SMALLEST_DELTA = 1e-30  # distances divided by less overflow
Head = HeadName | Literal["recipe"] | nn.Module | None


class BalancerOptions(TypedDict, total=False):
    """Keyword arguments of :class:`ReliabilityBalancer`, for functions that pass them on."""

    num_anchors: int | None
    recipe: RecipeName | Recipe
    head: Head
    metric: RF.Metric | None
    delta: float | None
    attention: AttentionMode | None
    num_heads: int
    head_dim: int
    correction_weight: float
    validate_args: bool


class ReliabilityBalancer(Configured):
    r"""Correction of a classifier's label distribution by anchors and attention (Eq. 9-19).

    .. code-block:: text

        embedding --+-- head ------------ primary l (9) ---------------------+
                    +-- anchors --------- anchor t_g (12-14) ----+           +-- corrected (19)
                    +-- self-attention -- attentive t_a (15-17) -+- t (18) --+

    Both fusions are means weighted by confidence (Eq. 10-11), so uncertain branches count less.

    Args:
        embedding_dim: D, the width of the embedding.
        num_classes: C, at least 2.
        num_anchors: K anchors per class; 0 switches the anchors off. The paper uses 8 to 10.
        recipe: recipe for arguments that are None: "robust" (our best), "paper" (the paper to the
            letter), or a :class:`core.Recipe`.
        head: primary head: "recipe" (that of the recipe), "mlp" (paper: two hidden layers of 64),
            "linear", or a module from (B, D) to (B, C). None: no head; each call must then give
            `primary_logits`.
        metric: "euclidean" (paper) or "cosine", see :func:`functional.anchor_distances`.
        delta: softmax temperature of Eq. 13, > 0; 1 in the paper.
        attention: "tokens", "single" (paper), "batch" or "off", see
            :class:`core.AttentiveCorrection`. None: the recipe's mode for embeddings without
            tokens, which is "off" in the robust one. Use "tokens" for embeddings with tokens;
            :func:`wrap` does so if its example input has tokens.
        num_heads: number of attention heads.
        head_dim: width of each head.
        correction_weight: factor on the confidence of the correction in Eq. 19, >= 0; 1 in the
            paper. 0 leaves the primary distribution unchanged, bit for bit.
        validate_args: check for non-finite embeddings and logits, which synchronizes with the
            device.

    Shape:
        - embedding: (B, D) or tokens (B, T, D) floating, cast to the dtype of the weights;
          primary_logits: (B, C) floating or None; token_mask: (B, T) bool, False for padding, or
          None; returns a :class:`BalancerOutput`.

    State:
        ``anchors`` (C, K, D), or None for K = 0, and the weights of head and attention are
        parameters, so distributed training synchronizes them by their gradients. The buffer
        ``class_prior`` (C,), which sums to 1, records the class frequencies that training adjusted
        the logits for; no output depends on it. Uniform: none, so predictions assume the class
        frequencies of training. Otherwise, as set by :class:`RobustLoss`: predictions assume a
        uniform prior, and :func:`core.with_class_prior` adapts them to these frequencies.
        There are no other buffers, except for batch norm in the head.

    Raises:
        TypeError: if an argument has a wrong type, or an input is not floating.
        ValueError: on wrong sizes, ranks or names, delta <= 0, non-finite embeddings or logits, a
            sample with padding only, missing logits without a head, or a batch of one in training
            with batch norm.

    Differs from paper: only where ``recipe="robust"`` does, and in the numerics documented at each
    function. The paper does not say how to initialize anchors; ours are random, of norm about 1.

    Example:
        >>> balancer = ReliabilityBalancer(16, num_classes=3).eval()
        >>> output = balancer(torch.randn(4, 16))
        >>> output.corrected.shape, output.changed.dtype
        (torch.Size([4, 3]), torch.bool)
    """

    SETTINGS: ClassVar = {
        "embedding_dim": int,
        "num_classes": int,
        "num_anchors": int,
        "recipe": str | dict,
        "head": str | None,
        "metric": str,
        "delta": float,
        "attention": str,
        "correction_weight": float,
        "num_heads": int,
        "head_dim": int,
    }

    anchors: nn.Parameter | None
    class_prior: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        num_anchors: int | None = None,
        recipe: RecipeName | Recipe = "robust",
        head: Head = "recipe",
        metric: RF.Metric | None = None,
        delta: float | None = None,
        attention: AttentionMode | None = None,
        num_heads: int = 4,
        head_dim: int = 32,
        correction_weight: float = 1.0,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        checks.at_least("embedding_dim", embedding_dim, 1)
        checks.at_least("num_classes", num_classes, 2)
        checks.non_negative("correction_weight", correction_weight)
        defaults = get_recipe(recipe)
        num_anchors = defaults.num_anchors if num_anchors is None else num_anchors
        checks.at_least("num_anchors", num_anchors, 0)
        attention = defaults.attention if attention is None else attention
        checks.one_of("attention", attention, ATTENTION_MODES)
        self.metric: RF.Metric = defaults.metric if metric is None else metric
        checks.one_of("metric", self.metric, RF.METRICS)
        self.delta = defaults.delta if delta is None else delta
        checks.positive("delta", self.delta)
        if self.delta < SMALLEST_DELTA:
            raise ValueError(f"`delta` must be at least {SMALLEST_DELTA}; got {self.delta}")
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.recipe: RecipeName | Recipe = recipe
        self.correction_weight = correction_weight
        self.validate_args = validate_args

        head = defaults.head if isinstance(head, str) and head == "recipe" else head
        self.head = _make_head(head, embedding_dim, num_classes)
        self.attention = (
            None
            if attention == "off"
            else AttentiveCorrection(
                embedding_dim, num_classes, mode=attention, num_heads=num_heads, head_dim=head_dim
            )
        )
        if num_anchors == 0:
            self.register_parameter("anchors", None)
        else:
            self.anchors = nn.Parameter(self._first_anchors(num_classes))

        self.register_buffer("class_prior", torch.full((num_classes,), 1.0 / num_classes))

    def forward(
        self,
        embedding: Tensor,
        primary_logits: Tensor | None = None,
        *,
        token_mask: Tensor | None = None,
    ) -> BalancerOutput:
        """Return the corrected distribution and all branches for one batch."""
        self._check(embedding, primary_logits, token_mask)
        embedding = self._in_own_dtype(embedding)
        pooled = pool_tokens(embedding, token_mask)
        logits = self._logits(pooled) if primary_logits is None else primary_logits

        anchors = self.anchor_points()
        distances = anchor_log_probs = attentive_log_probs = None
        if anchors is not None:
            points = RF.unit_length(pooled) if self.metric == "cosine" else pooled
            distances = RF.anchor_distances(points, anchors, validate_args=False)
            anchor_log_probs = RF.anchor_log_correction(distances, self.delta)
        if self.attention is not None:
            attended = self.attention(embedding, token_mask)
            attentive_log_probs = numerics.log_softmax(numerics.widen(attended))
        correction_log_probs = _combine(anchor_log_probs, attentive_log_probs)

        log_probs = numerics.log_softmax(numerics.widen(logits))
        if correction_log_probs is not None and self.correction_weight > 0:
            log_probs = RF.log_fuse(
                log_probs, correction_log_probs, second_weight=self.correction_weight
            )
        sees_tokens = embedding.ndim == 3 and self.attention is not None
        return BalancerOutput(
            log_probs=log_probs,
            logits=logits,
            embedding=pooled,
            anchor_log_probs=anchor_log_probs,
            attentive_log_probs=attentive_log_probs,
            correction_log_probs=correction_log_probs,
            distances=distances,
            anchors=anchors,
            tokens=embedding if sees_tokens else None,
            token_mask=token_mask if sees_tokens else None,
        )

    @torch.no_grad()
    def initialize_anchors(
        self, embedding: Tensor, labels: Tensor, *, token_mask: Tensor | None = None
    ) -> Self:
        """Initialize the anchors of each class by k-means on its embeddings (the mean for K = 1).

        Args:
            embedding: embeddings of a part of the training set.
            labels: their classes. Anchors of a class that does not occur are kept.
            token_mask: False for padding; None: no padding.

        Shape:
            - embedding: (N, D) or (N, T, D) floating; labels: (N,) int64 in [0, C); token_mask:
              (N, T) bool.

        Raises:
            TypeError: on a wrong dtype.
            ValueError: on wrong shapes or values, or if the balancer has no anchors.

        Example:
            >>> balancer = ReliabilityBalancer(2, 2, num_anchors=1, metric="euclidean")
            >>> points = torch.tensor([[1.0, 1.0], [3.0, 3.0], [9.0, 9.0]])
            >>> balancer.initialize_anchors(points, torch.tensor([0, 0, 1])).anchors.flatten()
            tensor([2., 2., 9., 9.], grad_fn=<...>)
        """
        if self.anchors is None:
            raise ValueError("`initialize_anchors` needs num_anchors > 0; got num_anchors=0")
        self._check(embedding, None, token_mask)
        checks.indices("labels", labels)
        checks.labels(labels, embedding.shape[:1], self.num_classes)
        checks.label_values(labels, self.num_classes)
        points = numerics.widen(pool_tokens(embedding, token_mask))
        if self.metric == "cosine":
            points = RF.unit_length(points)
        for index in range(self.num_classes):
            members = points[labels.to(points.device) == index]
            if len(members):
                members = members.to(self.anchors.device)
                self.anchors[index] = clustering.k_means(members, self.num_anchors)
        return self

    @torch.no_grad()
    def add_classes(self, count: int, optimizer: torch.optim.Optimizer | None = None) -> Self:
        """Append classes; anchors, head and attention of the others stay.

        What the new classes need is initialized as by the constructor. The logits and scores of the
        other classes stay, so that each branch keeps the ratios of their probabilities; those of
        the fused distributions change a little, since the weights of the branches change.

        :meth:`RobustLoss.add_classes` calls this, and adds the classes to all that it learned.

        Args:
            count: number of classes, >= 1.
            optimizer: the optimizer of the balancer; its state, such as AdamW's moments, is padded
                with zeros. None: create a new one, unless it has not made a step yet.

        Raises:
            TypeError: if `count` is not an int, or `optimizer` not an optimizer.
            ValueError: if `count` is below 1; if the head is not the balancer's own: with
                ``keep_head=True`` or a module of the user's, add the classes there and build a new
                balancer; if `optimizer` lacks trainable weights that grow, or its state is not in
                the shape of the weights, as Adafactor's and LBFGS's are not. Nothing is changed
                then.

        Note:
            Wrap the model in DistributedDataParallel afterwards, not before. Calibrations,
            prediction sets and other modules that know the number of classes must be made anew.

        Example:
            >>> balancer = ReliabilityBalancer(16, num_classes=3).eval()
            >>> before = balancer(torch.ones(1, 16)).logits
            >>> after = balancer.add_classes(2)(torch.ones(1, 16)).logits
            >>> after.shape, torch.allclose(after[:, :3], before)
            (torch.Size([1, 5]), True)
        """
        checks.at_least("count", count, 1)
        kind = self._head_name()
        if self.head is None or kind == OWN_HEAD:
            got = "no head of its own" if self.head is None else type(self.head).__name__
            raise ValueError(
                "`add_classes` needs a balancer whose head is 'linear' or 'mlp'; got "
                f"{got}: add the classes to that head and build a new balancer"
            )
        last: Any = self.head.layers[-1] if isinstance(self.head, MLPHead) else self.head
        layers = [last] if self.attention is None else [last, self.attention.output]
        grown = [each for layer in layers for each in layer.parameters()]
        if self.anchors is not None:
            grown.append(self.anchors)
        if optimizer is not None:
            _check_optimizer(optimizer, grown)
        for layer in layers:
            add_outputs(layer, count)
        if self.attention is not None:
            self.attention.num_classes += count
        if self.anchors is not None:
            append_rows(self.anchors, self._first_anchors(count))
        share = 1.0 / (self.num_classes + count)
        prior = self.num_classes * share * self.class_prior
        self.class_prior = nn.functional.pad(prior, (0, count), value=share)
        self.num_classes += count
        if optimizer is not None:
            for parameter in grown:
                _pad_state(optimizer.state.get(parameter, {}), count, parameter.shape)
        return self

    def _first_anchors(self, num_classes: int) -> Tensor:
        """Return random anchors of norm about 1, for so many classes."""
        size = (num_classes, self.num_anchors, self.embedding_dim)
        anchors: Tensor = torch.randn(size) * self.embedding_dim**-0.5
        return anchors

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build an equal balancer; a head of the user's own is "own"."""
        attention = self.attention
        found: dict[str, Any] = {"head": self._head_name(), "attention": "off"}
        if attention is not None:
            found |= {"attention": attention.mode, "head_dim": attention.head_dim}
            found["num_heads"] = attention.num_heads
        own = vars(self) | found
        return {name: own[name] for name in self.SETTINGS if name in own}

    def _head_name(self) -> str | None:
        if self.head is None:
            return None
        if type(self.head) is nn.Linear:
            return "linear"
        with torch.device("meta"):
            usual = MLPHead(self.embedding_dim, self.num_classes)
        # The text of a module shows all of its sizes.
        return "mlp" if repr(self.head) == repr(usual) else OWN_HEAD

    def anchor_points(self) -> Tensor | None:
        """Return the anchors as used in Eq. 12: of unit length for the cosine metric."""
        if self.anchors is None or self.metric == "euclidean":
            return self.anchors
        return RF.unit_length(self.anchors)

    def _logits(self, pooled: Tensor) -> Tensor:
        if self.head is None:
            raise ValueError(
                "`primary_logits` must be given, since the balancer was built with head=None; "
                "got None"
            )
        logits: Tensor = self.head(pooled)
        return logits

    def _in_own_dtype(self, embedding: Tensor) -> Tensor:
        """Cast the embedding to the dtype of the weights, except under autocast."""
        if torch.is_autocast_enabled(embedding.device.type):
            return embedding
        weight = next(self.parameters(), embedding) if self.anchors is None else self.anchors
        return embedding.to(weight.dtype)

    def _check(
        self, embedding: Tensor, primary_logits: Tensor | None, token_mask: Tensor | None
    ) -> None:
        checks.floating("embedding", embedding)
        checks.rank("embedding", embedding, f"(B, {self.embedding_dim}) or (B, T, D)", 2, 3)
        checks.width("embedding", embedding, self.embedding_dim)
        if token_mask is not None:
            checks.token_mask(token_mask, embedding)
        if self.validate_args:
            checks.finite("embedding", embedding, token_mask)
        if primary_logits is not None:
            checks.primary_logits(primary_logits, embedding.shape[0], self.num_classes, "B")
            if self.validate_args:
                checks.scores("primary_logits", primary_logits)
        if self.attention is not None and self.attention.mode == "batch" and not self.training:
            warnings.warn(
                "attention='batch' makes each prediction depend on the rest of its batch; "
                "use 'tokens' or 'single' for inference",
                stacklevel=3,
            )


def find_balancer(model: nn.Module) -> ReliabilityBalancer | None:
    """Return the balancer in a model, or None if it has none.

    Raises:
        ValueError: if there are several.
    """
    found = [each for each in model.modules() if isinstance(each, ReliabilityBalancer)]
    if len(found) > 1:
        raise ValueError(
            f"`model` must hold one ReliabilityBalancer; got {len(found)} in a "
            f"{type(model).__name__}"
        )
    return found[0] if found else None


def _check_optimizer(optimizer: torch.optim.Optimizer, grown: list[nn.Parameter]) -> None:
    """Require an optimizer whose state can grow with these parameters."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"`optimizer` must be a torch.optim.Optimizer; got {name}")
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    missing = sum(each.requires_grad and id(each) not in held for each in grown)
    if missing:
        raise ValueError(
            f"`optimizer` must hold the balancer's weights; got {name} without {missing} of the "
            f"{len(grown)} that grow: pass the optimizer that trains the balancer, or create a new "
            "one afterwards"
        )
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            for each in value if isinstance(value, list | tuple) else [value]:
                if isinstance(each, Tensor) and each.ndim and each.shape != parameter.shape:
                    raise ValueError(
                        "`optimizer` must keep its state in the shape of each weight, as AdamW "
                        f"and SGD do; got {name}, whose {key!r} has shape {tuple(each.shape)} for "
                        f"a weight of {tuple(parameter.shape)}: create a new one afterwards"
                    )


def _pad_state(state: dict[str, Any], count: int, shape: torch.Size) -> None:
    """Append rows of zeros to the state of a parameter that has grown to this shape."""
    before = (shape[0] - count, *shape[1:])
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == before:
            state[name] = torch.cat([value, value.new_zeros(count, *shape[1:])])


def _make_head(head: Head, embedding_dim: int, num_classes: int) -> nn.Module | None:
    if head is None or isinstance(head, nn.Module):
        return head
    checks.one_of("head", head, HEAD_NAMES)
    if head == "linear":
        return nn.Linear(embedding_dim, num_classes)
    return MLPHead(embedding_dim, num_classes)


def _combine(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Fuse the given branches by Eq. 18; a single branch is returned unchanged."""
    if first is None or second is None:
        return second if first is None else first
    return RF.log_fuse(first, second)
