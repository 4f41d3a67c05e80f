"""The public interface changes only where that is meant and announced."""

import json
import re

from public_api import NEED_AN_EXTRA, SNAPSHOT, public_api, public_modules


def test_the_public_interface_is_the_one_announced():
    announced = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    found = public_api()
    missing = NEED_AN_EXTRA - {module.__name__ for module in public_modules()}
    announced = {
        name: text for name, text in announced.items() if name.rpartition(".")[0] not in missing
    }
    assert found == announced, (
        "the public interface changed. If that is intended, name it in CHANGELOG.md and run "
        "`python tests/helpers/public_api.py`"
    )


def test_no_signature_depends_on_the_run():
    assert not re.search(r"0x[0-9a-f]{6}", SNAPSHOT.read_text(encoding="utf-8"))
