"""RobustClassifier by scikit-learn's own checks, and what it learns of the labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.utils.estimator_checks import parametrize_with_checks

from reliability_balance.core import get_recipe
from reliability_balance.data import symmetric_noise
from reliability_balance.integrations.sklearn import RobustClassifier

FEATURES, CLASSES = load_wine(return_X_y=True)
NOISY = symmetric_noise(torch.from_numpy(CLASSES), 0.3, 3, seed=0).numpy()
WRONG = NOISY != CLASSES


@parametrize_with_checks([RobustClassifier(epochs=20)])
@pytest.mark.filterwarnings("ignore:labels are trained on as given")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("hidden_dims", [(), (32,)])
def test_wrong_labels_are_found(hidden_dims):
    classifier = RobustClassifier(hidden_dims=hidden_dims, random_state=0)
    classifier.fit(FEATURES, NOISY)
    assert classifier.score(FEATURES, CLASSES) > 0.85
    first = classifier.doubtful_labels().first(int(WRONG.sum())).sample
    assert WRONG[first.numpy()].mean() > 0.8
    assert classifier.noise_matrix_.shape == (3, 3)
    np.testing.assert_allclose(classifier.noise_matrix_.sum(1), 1.0, atol=1e-5)
    assert 0.5 < classifier.noise_matrix_.diagonal().mean() < 0.9


def test_names_of_classes_dtype_and_seed():
    names = np.array(["red", "white", "rose"])[CLASSES]
    rows = FEATURES.astype(np.float32)
    classifier = RobustClassifier(epochs=10, random_state=3)
    state = torch.get_rng_state()
    probs = classifier.fit(rows, names).predict_proba(rows)
    assert torch.equal(torch.get_rng_state(), state), "torch's generator is left alone"
    assert probs.dtype == np.float32
    assert classifier.classes_.tolist() == ["red", "rose", "white"]
    assert set(classifier.predict(rows)) == set(names)
    np.testing.assert_array_equal(clone(classifier).fit(rows, names).predict_proba(rows), probs)


def test_integers_of_numpy_and_a_single_width():
    def probs(**options):
        classifier = RobustClassifier(random_state=0, **options)
        return classifier.fit(FEATURES, NOISY).predict_proba(FEATURES)

    expected = probs(epochs=2, num_anchors=2, batch_size=32, hidden_dims=(8,))
    counts = {"epochs": np.int64(2), "num_anchors": np.int32(2), "batch_size": np.int64(32)}
    for hidden_dims in (8, np.int64(8), np.array([8]), [np.int64(8)]):
        np.testing.assert_array_equal(probs(hidden_dims=hidden_dims, **counts), expected)


@pytest.mark.parametrize(("dtype", "factor"), [(np.float64, 2.0**500), (np.float32, 2.0**80)])
def test_large_features_are_standardised(dtype, factor):
    rows = FEATURES.astype(dtype)
    kind = RobustClassifier(epochs=2, random_state=0)
    expected = clone(kind).fit(rows, NOISY).predict_proba(rows)
    large = rows * dtype(factor)
    np.testing.assert_allclose(clone(kind).fit(large, NOISY).predict_proba(large), expected)
    rows[:, 3], rows[0, 3] = np.finfo(dtype).max, -np.finfo(dtype).max
    with pytest.raises(ValueError, match=r"`X` must be small enough .* in column 3"):
        clone(kind).fit(rows, NOISY)


def test_doubtful_labels_are_shown_by_name():
    names = np.array(["red", "white", "rose"])[NOISY]
    classifier = RobustClassifier(epochs=20, random_state=0).fit(FEATURES, names)
    head, *rows, more = str(classifier.doubtful_labels()).splitlines()
    assert head.split()[:3] == ["sample", "given", "suggested"]
    assert all(row.split()[1] == names[int(row.split()[0])] for row in rows)
    assert more == "… and 168 more"


def test_predictions_for_even_classes():
    chosen = np.concatenate([np.flatnonzero(CLASSES == 0)[:10], np.flatnonzero(CLASSES != 0)])
    probs = {
        even: RobustClassifier(epochs=10, even_classes=even, random_state=0)
        .fit(FEATURES[chosen], CLASSES[chosen])
        .predict_proba(FEATURES)
        for even in (False, True)
    }
    assert (probs[True][:, 0] > probs[False][:, 0]).all()


def test_a_recipe_holds_back_more_labels_of_small_data():
    recipe = replace(get_recipe("robust"), held_back=0.4)
    classifier = RobustClassifier(num_anchors=2, recipe=recipe, random_state=0)
    classifier.fit(FEATURES, NOISY)
    assert classifier.model_.balancer.num_anchors == 2
    assert classifier.criterion_.recipe == replace(recipe, num_anchors=2)
    assert int((classifier.criterion_.targets.out_of_sample.classes >= 0).sum()) > 50
    rate = classifier.noise_rate()
    assert rate.low < WRONG.mean() < rate.high
    assert classifier.doubtful_labels().caution == ""


def test_wrong_settings_are_refused():
    def fit(**options):
        RobustClassifier(**options).fit(FEATURES, NOISY)

    with pytest.raises(ValueError, match="`epochs` must be at least 1; got 0"):
        fit(epochs=0)
    with pytest.raises(ValueError, match="`num_anchors` must be at least 1; got 0"):
        fit(num_anchors=0)
    with pytest.raises(ValueError, match="`recipe` must have refurbishes_labels=True; got False"):
        fit(recipe="paper")
    with pytest.raises(ValueError, match="`batch_size` must be at least 2"):
        fit(batch_size=1)
    with pytest.raises(ValueError, match="`learning_rate` must be greater than 0"):
        fit(learning_rate=0)
    with pytest.raises(TypeError, match="`hidden_dims` must be an int; got float"):
        fit(hidden_dims=(8.0,))
    with pytest.raises(TypeError, match=r"`hidden_dims` must be an int or a seq.*; got NoneType"):
        fit(hidden_dims=None)
    with pytest.raises(TypeError, match=r"`hidden_dims` must be an int or a seq.*; got str"):
        fit(hidden_dims="88")
    with pytest.raises(TypeError, match="`hidden_dims` must be an int; got bool"):
        fit(hidden_dims=True)
    with pytest.raises(ValueError, match=r"`hidden_dims` must have shape \(L,\); got \(1, 2\)"):
        fit(hidden_dims=np.array([[8, 8]]))
    with pytest.raises(TypeError, match="`epochs` must be an int; got float64"):
        fit(epochs=np.float64(2))
    with pytest.raises(ValueError, match="`y` must hold at least 2 classes; got 1 class"):
        RobustClassifier().fit(FEATURES, np.zeros(len(FEATURES)))
