"""The rendered faces: the same from the same seed, with the truth that is claimed."""

import json
from dataclasses import replace

import pytest
import torch

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION
from examples.arbex.rendering.face_expressions import (
    CLASS_NAMES,
    class_prior,
    draw_blends,
    label_distribution,
)
from examples.arbex.rendering.rendered_faces import (
    PRESETS,
    RenderedFacesSettings,
    best_accuracy,
    rendered_faces,
)
from examples.arbex.rendering.rendering_cache import cached_images

SMALL = RenderedFacesSettings(num_faces=90, image_size=24, num_identities=12)


def pixels(table):
    return torch.stack([table.images[index] for index in range(len(table))])


def test_the_same_settings_give_the_same_faces():
    first, second = rendered_faces(SMALL), rendered_faces(SMALL)
    other = rendered_faces(replace(SMALL, seed=1))
    assert torch.equal(pixels(first), pixels(second))
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(pixels(first), pixels(other))


def test_splits_share_no_identity():
    table = rendered_faces(SMALL)
    people = [set(table.subset(split).groups.tolist()) for split in (TRAIN, VALIDATION, TEST)]
    assert all(people)
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]


def test_noise_changes_an_exact_share_of_the_training_labels_and_nothing_else():
    clean, noisy = rendered_faces(SMALL), rendered_faces(replace(SMALL, label_noise=0.4))
    assert torch.equal(pixels(clean), pixels(noisy))
    assert torch.equal(clean.labels, noisy.true_labels)
    changed = noisy.labels != noisy.true_labels
    training = noisy.splits == TRAIN
    assert int(changed.sum()) == int(changed[training].sum()) == round(0.4 * int(training.sum()))


def test_labels_are_drawn_from_the_distributions():
    blends = draw_blends(40000, 5.0, 0.9, torch.Generator().manual_seed(0))
    torch.testing.assert_close(blends.weights.sum(1), torch.ones(40000))
    torch.testing.assert_close(blends.distributions.sum(1), torch.ones(40000))
    # In every class, the mean of the distributions is the frequency of the label (5 deviations).
    observed = blends.labels.bincount(minlength=7) / 40000
    assert (observed - blends.distributions.mean(0)).abs().max() < 5 * (0.25 / 40000) ** 0.5
    # And so among the faces whose likeliest class has about 60 %.
    top, guess = blends.distributions.max(1)
    near = (top - 0.6).abs() < 0.05
    rate = (blends.labels == guess)[near].float().mean()
    assert float(rate) == pytest.approx(float(top[near].mean()), abs=0.03)


def test_no_ambiguity_means_pure_expressions():
    blends = draw_blends(50, 1.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(blends.weights.amax(1), torch.ones(50))
    assert torch.equal(blends.weights.argmax(1), blends.labels)


def test_the_label_distribution_is_that_of_squares():
    weights = [0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0]
    squares = [weight**2 for weight in weights]
    expected = torch.tensor([[square / sum(squares) for square in squares]])
    torch.testing.assert_close(label_distribution(torch.tensor([weights])), expected)


def test_the_prior_has_the_wanted_imbalance():
    prior = class_prior(10.0)
    assert float(prior.max() / prior.min()) == pytest.approx(10.0)
    assert CLASS_NAMES[int(prior.argmax())] == "happiness"
    torch.testing.assert_close(class_prior(1.0), torch.full((7,), 1 / 7))


def test_presets_are_ordered_by_the_best_accuracy():
    best = []
    for preset in PRESETS.values():
        generator = torch.Generator().manual_seed(0)
        blends = draw_blends(4000, preset.imbalance, preset.ambiguity, generator)
        best.append(float(blends.distributions.amax(1).mean()))
    assert list(PRESETS) == ["easy", "medium", "hard"]
    assert best == sorted(best, reverse=True)
    assert best[-1] < 0.85 < 0.95 < best[0]


def test_the_best_accuracy_is_that_of_the_likeliest_class():
    table = rendered_faces(replace(SMALL, num_faces=8))
    expected = sum(max(row) for row in table.distributions.tolist()) / 8
    assert best_accuracy(table) == pytest.approx(expected)
    with pytest.raises(
        ValueError, match="`table` must have distributions; rendered faces has none"
    ):
        best_accuracy(replace(table, distributions=None))


def test_the_class_shows_in_the_picture():
    # Nearest class mean, over pure expressions of one frontal person: seven times chance at least.
    pure = replace(SMALL, ambiguity=0.0, pose=0.0, light=0.0, occlusion=0.0, camera_noise=0.0)
    pure = replace(pure, num_faces=400, imbalance=1.0, individuality=0.0)
    table = rendered_faces(pure)
    images = pixels(table).float().flatten(1)
    people = torch.stack([images[table.groups == g].mean(0) for g in range(12)])
    images = images - people[table.groups]
    half = torch.arange(400) < 200
    means = torch.stack([images[half & (table.labels == label)].mean(0) for label in range(7)])
    guess = torch.cdist(images[~half], means).argmin(1)
    assert float((guess == table.labels[~half]).float().mean()) > 0.7


def test_the_cache_is_used_and_a_damaged_one_is_made_anew(tmp_path):
    calls = []

    def render():
        calls.append(1)
        return torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)

    def load():
        return cached_images(tmp_path, {"seed": 0}, render)

    load()
    assert torch.equal(load()[1], torch.full((3, 4, 4), 7, dtype=torch.uint8))
    assert len(calls) == 1
    (array,), (note,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    damages = [
        lambda: array.write_bytes(array.read_bytes()[:-3]),
        lambda: array.write_bytes(array.read_bytes()[:-1] + b"\x00"),
        lambda: array.unlink(),
        lambda: note.write_text("{"),
        lambda: note.unlink(),
        lambda: note.write_text(
            json.dumps(json.loads(note.read_text()) | {"settings": {"seed": 1}})
        ),
    ]
    for count, damage in enumerate(damages, start=2):
        damage()
        load()
        assert len(calls) == count
        load()
        assert len(calls) == count
    assert len(list(tmp_path.iterdir())) == 2  # nothing half-written is left


def test_noise_needs_no_new_pictures(tmp_path):
    rendered_faces(SMALL, tmp_path)
    rendered_faces(replace(SMALL, label_noise=0.3, noise_kind="pair"), tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_faces": 0}, ValueError, "`num_faces` must be at least 1; got 0"),
        ({"image_size": 64.0}, TypeError, "`image_size` must be an int; got float"),
        ({"imbalance": 0.5}, ValueError, "`imbalance` must be at least 1; got 0.5"),
        ({"pose": 1.5}, ValueError, r"`pose` must lie in \[0, 1\]; got 1.5"),
        ({"light": 2}, ValueError, r"`light` must lie in \[0, 1\]; got 2"),
        ({"noise_kind": "odd"}, ValueError, "`noise_kind` must be one of 'symmetric', 'pair'"),
        ({"test_share": 0.9}, ValueError, "must be less than 1; got 0.1 [+] 0.9"),
        (
            {"num_identities": 3, "validation_share": 0.3, "test_share": 0.6},
            ValueError,
            "`num_identities` must be more than the people for .*, 1 [+] 2; got 3",
        ),
    ],
)
def test_wrong_settings_are_named(change, error, message):
    with pytest.raises(error, match=message):
        RenderedFacesSettings(**change)
