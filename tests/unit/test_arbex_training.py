"""The reference application's training step."""

from dataclasses import replace

import pytest
import torch
from configuration import override_recipe
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe, train_tiny
from training import balanced_training
from training.fitting import build_training

from reliability_balance.mixing import mix


def test_samples_are_blended_from_an_epoch_on(tmp_path, monkeypatch):
    """Of three."""
    blends = []

    def counted(*arguments, concentration):
        blends[-1] += 1
        assert concentration == 0.3
        return mix(*arguments, concentration=concentration)

    monkeypatch.setattr(balanced_training, "mix", counted)
    for mix_from in (0, 2, 3):
        blends.append(0)
        recipe = tiny_recipe(epochs=3, targets={"mixing": 0.3, "mix_from": mix_from})
        train_tiny(tmp_path / str(mix_from), recipe)
    steps = blends[0] // 3
    assert steps > 0
    assert blends == [3 * steps, steps, 0]


def test_the_class_prior_is_that_of_the_training_set():
    recipe = tiny_recipe(data={"image_size": 16, "per_class": None}, balancer={"class_prior": True})
    table = synthetic_table()
    train = table.select((table.labels != 1).nonzero().squeeze(-1)[:5])
    prior = build_training(recipe, train).model.balancer.class_prior
    torch.testing.assert_close(prior, torch.tensor([4.0, 1.0, 3.0]) / 8)  # one more of each


def test_contradictions_of_recipe_and_faces_are_named():
    table = synthetic_table()
    with pytest.raises(ValueError, match=r"`data.per_class` to be null.*got 20"):
        build_training(override_recipe(tiny_recipe(), ["balancer.class_prior=true"]), table)
    voting = override_recipe(tiny_recipe(), ["data.soft_labels=true"])
    for faces in (table, replace(table, distributions=None)):
        with pytest.raises(ValueError, match=r"`data.soft_labels` needs .* votes; synthetic has"):
            build_training(voting, faces)
    build_training(voting, replace(table, true_labels=None))


def test_a_warm_up_that_never_ends_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"no label will be doubted.*is 9.*seen .* times"):
        train_tiny(tmp_path, tiny_recipe(epochs=1, targets={"warmup": 9}))
