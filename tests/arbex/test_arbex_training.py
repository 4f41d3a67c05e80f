"""The reference application's training step."""

from dataclasses import replace

import pytest
import torch
from synthetic_faces import synthetic_table
from tiny_training import tiny_recipe, train_tiny

from examples.arbex.configuration import load_config, override_config
from examples.arbex.face_model import build_model
from examples.arbex.training.fitting import build_training, times_seen
from reliability_balance.core import RECIPES
from reliability_balance.labels import robust_loss
from reliability_balance.labels.mixing import draw_partners

WHOLE = {"image_size": 16}  # epochs of all faces


def test_samples_are_blended_from_an_epoch_on(tmp_path, monkeypatch):
    """From the batch on that fills it: of three epochs, of which two are warm-up."""
    blends = []

    def counted(count, concentration, device):
        blends[-1] += 1
        assert concentration == 0.2
        return draw_partners(count, concentration, device)

    monkeypatch.setattr(robust_loss, "draw_partners", counted)
    for mix_from in (0, 0.5, 1):
        blends.append(0)
        method = {"num_anchors": 2, "mixing": 0.2, "warmup": 2, "mix_from": mix_from}
        train_tiny(tmp_path / str(mix_from), tiny_recipe(epochs=3, data=WHOLE, recipe=method))
    steps = blends[0] // 3
    assert steps > 0
    assert blends == [3 * steps, 2 * steps + 1, steps + 1]


def test_the_class_prior_is_that_of_the_training_set():
    table = synthetic_table()
    train = table.select((table.labels != 1).nonzero().squeeze(-1)[:5])
    for even, expected in ((True, [4.0, 1.0, 3.0]), (False, [1.0, 1.0, 1.0])):  # one more of each
        recipe = tiny_recipe(data=WHOLE, recipe={"logit_adjustment": even})
        prior = build_training(recipe, train).model.balancer.class_prior
        torch.testing.assert_close(prior, torch.tensor(expected) / sum(expected))


def test_contradictions_of_recipe_and_faces_are_named():
    table = synthetic_table()
    with pytest.raises(ValueError, match=r"`recipe.logit_adjustment` must be false .* with 20"):
        build_training(override_config(tiny_recipe(), ["recipe.logit_adjustment=true"]), table)
    voting = override_config(tiny_recipe(), ["data.soft_labels=true"])
    for faces in (table, replace(table, distributions=None)):
        with pytest.raises(ValueError, match=r"`data.soft_labels` needs .* votes; synthetic has"):
            build_training(voting, faces)
    build_training(voting, replace(table, true_labels=None))


def test_a_face_is_seen_once_an_epoch_but_for_refinement():
    table = synthetic_table()
    assert times_seen(tiny_recipe(data=WHOLE), table) == 10
    refined = tiny_recipe(data={**WHOLE, "per_class": 20, "per_group": 12})
    assert times_seen(refined, table) == 10 * 20 * len(table.class_names) / len(table)


def test_a_warm_up_that_never_ends_is_told(tmp_path):
    """Each face is seen once, which is the least that must come before."""
    recipe = tiny_recipe(
        data=WHOLE, optimization={"epochs": 1, "batch_size": 8}, recipe={"num_anchors": 2}
    )
    with pytest.warns(
        UserWarning, match=r"no label will be doubted: .* seen 1.0 times, .* after 10 at"
    ):
        train_tiny(tmp_path, recipe)


def test_attention_is_that_of_tokens():
    attention = build_model(load_config("quick"), 3).balancer.attention
    assert attention.mode == RECIPES["robust"].token_attention
    off = load_config("quick", ["recipe.token_attention=off"])
    assert build_model(off, 3).balancer.attention is None


def test_the_library_has_all_defaults(monkeypatch):
    changed = replace(
        RECIPES["robust"], num_anchors=3, delta=0.7, center_weight=0.9, temperature=0.4, mixing=0.1
    )
    monkeypatch.setitem(RECIPES, "robust", changed)
    module = build_training(load_config("robust", ["encoder.name=small_cnn"]), synthetic_table())
    assert (module.model.balancer.num_anchors, module.model.balancer.delta) == (3, 0.7)
    assert module.criterion.recipe == replace(changed, attention=changed.token_attention)
    assert module.criterion.loss.center_weight == 0.9
    assert module.criterion.targets.temperature == 0.4
