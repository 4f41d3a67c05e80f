from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reliability_balance.backbones.weights import read_weights


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=64), pickled=st.booleans())
def test_any_other_file_is_refused_as_such(tmp_path: Path, content: bytes, pickled: bool) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(b"\x80\x02" + content if pickled else content)
    with pytest.raises(ValueError, match="`path` must"):
        read_weights(path)
