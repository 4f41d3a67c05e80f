"""Threads and processes that save one file at once: no save raises, and every read is whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from tiny_training import tiny_recipe

from examples.arbex import model_bundle
from examples.arbex.face_model import build_model

TESTS = Path(__file__).resolve().parent.parent
# `SAVE_SECONDS=60 pytest tests/library/test_savers_at_once.py` goes on for a minute.
SECONDS = os.environ.get("SAVE_SECONDS", "4")


def test_every_save_and_every_read_is_whole(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(TESTS / "helpers" / "save_at_once.py"),
            tmp_path,
            SECONDS,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300 + float(SECONDS),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = {name: int(number) for number, name in re.findall(r"(\d+) ([\w ]+)", done.stdout)}
    assert counted.keys() == {"saves", "whole reads", "kills"}
    assert min(counted.values()) > 0


def test_a_model_that_is_replaced_while_it_is_read_is_whole(tmp_path, monkeypatch):
    path, parse_config = tmp_path / "model.safetensors", model_bundle.parse_config

    def save(seed):
        recipe = tiny_recipe(seed=seed)
        model = build_model(recipe, 2)
        torch.nn.init.constant_(model.balancer.anchors, float(seed))
        model_bundle.save_bundle(path, model, recipe, ("a", "b"))

    def replace_and_parse(*arguments, **options):  # after the header, before the weights
        save(2)
        return parse_config(*arguments, **options)

    save(1)
    monkeypatch.setattr(model_bundle, "parse_config", replace_and_parse)
    found = model_bundle.load_bundle(path)
    assert found.config.seed == 2
    assert found.model.balancer.anchors.unique().tolist() == [2.0]
