"""The robust recipe as a scikit-learn classifier; needs the extra `sklearn`.

Import this module by name; the package does not import it.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import Self

from reliability_balance import checks
from reliability_balance.core.balancer import ReliabilityBalancer
from reliability_balance.core.class_prior import with_class_prior
from reliability_balance.core.output import BalancerOutput
from reliability_balance.core.recipes import Recipe, RecipeName, get_recipe
from reliability_balance.labels.fitting import descend
from reliability_balance.labels.inspection import LabelRanking
from reliability_balance.labels.interval import Interval
from reliability_balance.labels.robust_loss import RobustLoss

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "reliability_balance.integrations.sklearn needs: pip install '.[sklearn]' in the clone"
    ) from error

__all__ = ["RobustClassifier"]

PREDICTION_BATCH = 4096
DTYPES = (np.float64, np.float32)


class RobustClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier for tabular data and stored embeddings that is robust to label noise.

    It standardises the features and trains a :class:`ReliabilityBalancer` with
    :class:`RobustLoss`, after optional hidden layers, in the dtype of the features.

    Args:
        hidden_dims: widths of hidden layers, or one width. Empty: no hidden layer; the model is
            linear except for its anchors.
        num_anchors: anchors of each class, >= 1. Use 1 for a few hundred rows, where more anchors
            memorize wrong labels; for a few thousand rows use the recipe's 8.
        epochs: passes over the training set, >= 1. See :class:`RobustLoss` for when labels are
            refurbished.
        batch_size: samples in a step, >= 2.
        learning_rate: of AdamW, > 0, with cosine decay to 0.
        recipe: "robust", or a :class:`core.Recipe`. For a few hundred rows use
            ``replace(get_recipe("robust"), held_back=0.3)``: a tenth of them is too few held-back
            labels for verdicts. `num_anchors` replaces that of the recipe.
        even_classes: True: predictions are for evenly frequent classes. False: for the class
            frequencies of the labels.
        random_state: a seed or a generator. None: each fit is different.
        device: torch device.

    State:
        After fitting ``classes_`` (C,), ``n_features_in_``, ``noise_matrix_`` (C, C), whose row c
        is the distribution of labels of class c, ``model_`` and ``criterion_``.

    Raises:
        TypeError: in `fit`, on wrong types.
        ValueError: in `fit`, on wrong values, features too large to be standardised in their dtype,
            fewer than 2 classes, and as scikit-learn does.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> features, labels = load_wine(return_X_y=True)
        >>> labels[:10] = 1  # wrong ones
        >>> classifier = RobustClassifier(random_state=0).fit(features, labels)
        >>> bool((classifier.predict(features[:10]) == 0).sum() > 7)
        True
        >>> int((classifier.doubtful_labels().first(10).sample < 10).sum()) > 7
        True
    """

    def __init__(
        self,
        *,
        hidden_dims: int | Sequence[int] | npt.NDArray[np.integer] = (),
        num_anchors: int = 1,
        epochs: int = 50,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        recipe: RecipeName | Recipe = "robust",
        even_classes: bool = False,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.hidden_dims = hidden_dims
        self.num_anchors = num_anchors
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.recipe = recipe
        self.even_classes = even_classes
        self.random_state = random_state
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:  # noqa: N803
        """Train on features and labels.

        Args:
            X: features (N, D).
            y: labels (N,) of any type that scikit-learn accepts.
        """
        epochs = _integer("epochs", self.epochs, 1)
        num_anchors = _integer("num_anchors", self.num_anchors, 1)
        batch_size = _integer("batch_size", self.batch_size, 2)
        checks.positive("learning_rate", self.learning_rate)
        hidden_dims = _widths(self.hidden_dims)
        recipe = replace(get_recipe(self.recipe), num_anchors=num_anchors)
        if not recipe.refurbishes_labels:
            raise ValueError("`recipe` must have refurbishes_labels=True; got False")
        rows, given = validate_data(self, X, y, dtype=DTYPES)
        check_classification_targets(given)
        self.classes_, codes = np.unique(given, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("`y` must hold at least 2 classes; got 1 class")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = torch.device(self.device)
        features = torch.tensor(rows, device=device)
        labels = torch.as_tensor(codes, dtype=torch.int64, device=device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.model_ = _Network(features, hidden_dims, len(self.classes_), recipe)
            self.criterion_ = RobustLoss(self.model_, labels, epochs=epochs)
            self._train(features, labels, epochs, batch_size)
        self.noise_matrix_ = self.criterion_.noise_matrix.cpu().numpy()
        return self

    def _train(self, features: Tensor, labels: Tensor, epochs: int, batch_size: int) -> None:
        network, criterion = self.model_, self.criterion_
        with torch.no_grad():
            network.balancer.initialize_anchors(network.encoder(features), labels)

        def loss_of(batch: Tensor) -> Tensor:
            index = batch.to(features.device)
            loss: Tensor = criterion(network(features[index]), labels[index], index)
            return loss

        descend(
            network,
            loss_of,
            len(features),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=self.learning_rate,
        )
        network.eval()

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.floating]:  # noqa: N803
        """Return the corrected probabilities (N, C), in the order of ``classes_``.

        Args:
            X: features (N, D).
        """
        check_is_fitted(self)
        mean = self.model_.mean
        dtype = np.float64 if mean.dtype == torch.float64 else np.float32
        features = torch.tensor(validate_data(self, X, dtype=dtype, reset=False))
        probs = []
        with torch.no_grad():
            for part in features.split(PREDICTION_BATCH):
                output = self.model_(part.to(mean.device))
                if not self.even_classes:
                    output = with_class_prior(output, self.criterion_.class_prior)
                probs.append(output.corrected.cpu())
        found: npt.NDArray[np.floating] = torch.cat(probs).numpy()
        return found

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """Return the most probable classes (N,).

        Args:
            X: features (N, D).
        """
        probs = self.predict_proba(X)
        found: npt.NDArray[Any] = self.classes_[probs.argmax(-1)]
        return found

    def doubtful_labels(self) -> LabelRanking:
        """Rank the training labels, most doubtful first.

        Classes are indices into ``classes_``, and names where the ranking is printed; see
        :func:`labels.rank_labels`.

        Warns:
            UserWarning: if the model is not reliable enough for verdicts.
        """
        check_is_fitted(self)
        return self.criterion_.doubtful_labels(class_names=self.classes_)

    def noise_rate(self, *, level: float = 0.95) -> Interval:
        """Estimate the share of wrong labels; see :meth:`RobustLoss.noise_rate`.

        Args:
            level: confidence level of the interval, in (0, 1).

        Warns:
            UserWarning: if the model is not reliable enough for the estimate.
        """
        check_is_fitted(self)
        return self.criterion_.noise_rate(level=level)


class _Network(nn.Module):
    """Standardisation, hidden layers and balancer, on the device and in the dtype of features.

    Args:
        features: (N, D), which set the standardisation.
        hidden_dims: widths.
        num_classes: C.
        recipe: of the balancer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, features: Tensor, hidden_dims: Sequence[int], num_classes: int, recipe: Recipe
    ) -> None:
        super().__init__()
        # Squares of large values would overflow: scale columns to at most 1 first.
        largest = features.abs().amax(0)
        largest = largest.where(largest > 0, 1.0)
        small = features / largest
        scale = small.std(0, correction=0) * largest
        self.register_buffer("mean", small.mean(0) * largest)
        self.register_buffer("scale", scale.where(scale > 0, 1.0))
        finite = self.standardised(features).isfinite().all(0)
        if not bool(finite.all()):
            column = int((~finite).nonzero()[0])
            raise ValueError(
                f"`X` must be small enough to be standardised in {features.dtype}; got values up "
                f"to {float(largest[column]):.3g} in column {column}"
            )
        widths = [features.shape[1], *hidden_dims]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.balancer = ReliabilityBalancer(widths[-1], num_classes, recipe=recipe)
        self.to(features.device, features.dtype)

    def standardised(self, features: Tensor) -> Tensor:
        """Return features (N, D) with mean 0 and standard deviation 1 on the training set."""
        return (features - self.mean) / self.scale

    def encoder(self, features: Tensor) -> Tensor:
        """Return the embedding (N, D) of features."""
        embedding: Tensor = self.layers(self.standardised(features))
        return embedding

    def forward(self, features: Tensor) -> BalancerOutput:
        """Return the balancer's output for one batch."""
        output: BalancerOutput = self.balancer(self.encoder(features))
        return output


def _integer(name: str, value: Any, minimum: int) -> int:
    """Return a Python or numpy integer as an int.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is too small.
    """
    if isinstance(value, np.integer):
        value = int(value)
    checks.at_least(name, value, minimum)
    found: int = value
    return found


def _widths(hidden_dims: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers.

    Raises:
        TypeError: if `hidden_dims` does not hold integers.
        ValueError: if it is an array that is not one-dimensional, or a width is below 1.
    """
    if isinstance(hidden_dims, int | np.integer):
        return (_integer("hidden_dims", hidden_dims, 1),)
    if isinstance(hidden_dims, np.ndarray):
        if hidden_dims.ndim != 1:
            raise ValueError(f"`hidden_dims` must have shape (L,); got {hidden_dims.shape}")
    elif isinstance(hidden_dims, str | bytes) or not isinstance(hidden_dims, Sequence):
        raise TypeError(
            f"`hidden_dims` must be an int or a sequence of ints; got {type(hidden_dims).__name__}"
        )
    return tuple(_integer("hidden_dims", width, 1) for width in hidden_dims)
