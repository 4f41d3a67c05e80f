"""Table 5's command on small trees of each data set's layout."""

import json

import face_trees
import pytest

pytest.importorskip("lightning", reason="the ARBEx example needs Lightning")

from typer import Typer
from typer.testing import CliRunner

from benchmarks.questions import paper_figures
from benchmarks.questions.paper_table5 import MODELS, PAPER, format_column, main

TINY = [
    "data.image_size=16",
    "data.per_class=null",
    "encoder.name=small_cnn",
    "encoder.options={width: 4}",
    "optimization.epochs=1",
    "optimization.batch_size=8",
]


def test_trains_on_a_tree_and_prints_the_papers_column(tmp_path, capsys):
    root = face_trees.raf_db(tmp_path / "raf")
    results = tmp_path / "results"
    main("raf-db", root, "robust", TINY, tmp_path / "runs", results)
    assert "| ARBEx | 92.47 |" in capsys.readouterr().out
    content = json.loads((results / "paper_table5_raf-db_robust.json").read_text())
    assert 0 <= content["corrected"]["accuracy"] <= 100
    assert str(tmp_path) not in json.dumps(content)
    assert "recipe robust, corrected" in (results / "paper_table5_raf-db_robust.md").read_text()


@pytest.mark.parametrize(("question", "more"), [(main, ["."]), (paper_figures.main, [])])
def test_refuses_what_the_table_does_not_hold(question, more):
    app = Typer()
    app.command()(question)
    found = CliRunner().invoke(app, ["affectnet", *more], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert "must be one of aff-wild2" in found.output
    assert "got affectnet" in found.output


def test_every_column_holds_every_model():
    assert {len(column) for column in PAPER.values()} == {len(MODELS)}
    score = {"accuracy": 1.0}
    how = {"command": "", "machine": "", "versions": {}}
    text = format_column("fer-plus", "paper", {**how, "corrected": score, "primary": score})
    assert "| RUL | - |" in text
