"""The benchmark of stored embeddings: the reference, the shapes, the report."""

import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

from sklearn.model_selection import KFold

from benchmarks.data.embedding_shapes import SHAPES, separated
from benchmarks.questions import embedding_labels
from benchmarks.questions.embedding_labels import Run, do_run, neighbours_doubt, report


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_drawn_by_their_seed(name):
    data, again = SHAPES[name](3), SHAPES[name](3)
    assert torch.equal(data.embeddings, again.embeddings)
    assert data.embeddings.isfinite().all()
    assert len(data.embeddings) == len(data.classes)
    assert set(data.classes.tolist()) == set(range(data.num_classes))


def test_neighbours_are_of_the_other_folds():
    data = separated(3, 10, 2, 0.5)(0)
    doubt = neighbours_doubt(data.embeddings, data.classes, 4, seed=1)
    for kept, held_out in KFold(5, shuffle=True, random_state=1).split(data.embeddings):
        for sample in held_out:
            distances = (data.embeddings[kept] - data.embeddings[sample]).norm(dim=1)
            nearest = torch.as_tensor(kept)[distances.argsort()[:4]]
            other = (data.classes[nearest] != data.classes[sample]).double().mean()
            assert doubt[sample] == pytest.approx(float(other))


def test_a_class_outside_the_other_folds_is_doubted():
    embeddings = torch.randn(20, 2)
    labels = torch.zeros(20, dtype=torch.int64)
    labels[3] = 2
    assert neighbours_doubt(embeddings, labels, 5, seed=0)[3] == 1.0


def test_all_finders_run_and_are_reported(monkeypatch):
    monkeypatch.setitem(embedding_labels.SHAPES, "small", separated(4, 30))
    lines = [do_run(Run("small", "symmetric 20", seed)) for seed in (0, 1)]
    assert len(lines[0]["found"]) == 5
    worse = {name: {"auroc": 0.9, "cpu": 1.0} for name in lines[0]["found"]}
    worse["ours"] = {"auroc": 0.8, "cpu": 1.0}
    lines += [{**Run("other", "pair 40", seed)._asdict(), "found": worse} for seed in (0, 1)]
    text = report(pd.DataFrame(lines))
    assert "Ours is more than 0.01 below on 1 of 2 rows: other, pair 40." in text
    assert "| small | symmetric 20 | 1.000 ± " in text
