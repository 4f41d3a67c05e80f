from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_subpackage_is_in_the_wheel() -> None:
    """Setuptools leaves out what is not listed, without an error."""
    tomllib = pytest.importorskip("tomllib")
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(("reliability_balance", *folder.relative_to(ROOT).parts))
        for folder in (file.parent for file in (ROOT / "backbones").rglob("__init__.py"))
    }
    assert found | {"reliability_balance"} == set(setup["packages"])
    for package in found:
        path = "/".join(package.split(".")[1:])
        assert setup["package-dir"][package] == path
