"""Threads and processes that save one file at once: no save raises, and every read is whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
# `SAVE_SECONDS=60 pytest tests/faults/test_savers_at_once.py` goes on for a minute.
SECONDS = os.environ.get("SAVE_SECONDS", "4")


def test_every_save_and_every_read_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / "save_at_once.py"), tmp_path, SECONDS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120 + float(SECONDS),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = {name: int(number) for number, name in re.findall(r"(\d+) ([\w ]+)", done.stdout)}
    assert counted.keys() == {"saves", "whole reads", "kills"}
    assert min(counted.values()) > 0
