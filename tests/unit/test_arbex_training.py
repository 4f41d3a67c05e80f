"""The reference application's training step."""

from tiny_training import tiny_recipe, train_tiny
from training import balanced_training

from reliability_balance.mixing import mix


def test_samples_are_blended_once_labels_are_doubted(tmp_path, monkeypatch):
    """Of three epochs, in those after the warm-up."""
    blends = []

    def counted(*arguments, concentration):
        blends[-1] += 1
        assert concentration == 0.3
        return mix(*arguments, concentration=concentration)

    monkeypatch.setattr(balanced_training, "mix", counted)
    for warmup in (0, 2, 3):
        blends.append(0)
        recipe = tiny_recipe(epochs=3, targets={"warmup": warmup, "mixing": 0.3})
        train_tiny(tmp_path / str(warmup), recipe)
    steps = blends[0] // 3
    assert steps > 0
    assert blends == [3 * steps, steps, 0]
