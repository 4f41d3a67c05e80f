"""The reference application's training step."""

from tiny_training import tiny_recipe, train_tiny
from training import balanced_training

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
