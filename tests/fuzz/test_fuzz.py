"""A little of the fuzzing in each run of the tests; `python tests/fuzz` does 100,000 inputs."""

import os
import signal

import pytest

pytest.importorskip("lightning", reason="the readers of the application need the extra `arbex`")
pytest.importorskip("av", reason="the readers of the application need the extra `arbex`")

from fuzz.running import READ, Target, outcomes, outcomes_in_a_process
from fuzz.targets import TARGETS

INPUTS = 40


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_damaged_file_is_read_or_refused(target):
    found = list(outcomes(target, range(INPUTS)))
    assert [each for each in found if each.fault is not None] == []
    assert found[0].kind == READ


def test_faults_are_found(tmp_path):
    """The fuzzing itself: a crash, another exception and a message without the file's name."""

    def prepare(folder):
        def read(content):
            if content == b"crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if content == b"wrong":
                raise KeyError(content)
            raise ValueError("no name")

        return [b"crash", b"wrong", b"message"], read

    found = list(outcomes_in_a_process(Target("broken", prepare), range(4)))
    assert [each.number for each in found] == [0, 1, 2, 3]
    assert [each.kind for each in found] == ["crash", "wrong: KeyError", "ValueError", "ValueError"]
    assert "a valid file was refused" in found[2].fault
    assert "names neither file nor argument" in found[3].fault
