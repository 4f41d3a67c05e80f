"""`kill -9` at any moment of a save leaves the old file or the new one, and always a whole one."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
# `SAVE_KILLS=100 pytest tests/library/test_kills_while_saving.py` kills a hundred times each.
KILLS = os.environ.get("SAVE_KILLS", "10")


def test_a_file_is_whole_after_each_kill(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(TESTS / "helpers" / "kill_while_saving.py"),
            tmp_path,
            KILLS,
            "0",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"whole after {KILLS} kills") == 3
