"""Lower bounds, licences and builds are what the project says of them."""

import importlib.util
import re
import sys
import tarfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_oldest_releases_that_are_tested_are_the_lower_bounds():
    lines = (ROOT / "constraints" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    for requirement in PROJECT["dependencies"]:
        name, bound = requirement.split(">=")
        assert re.fullmatch(re.escape(bound) + r"(\.0)*", tested[name]), name


def test_every_direct_dependency_has_its_licence_told():
    text = (ROOT / "THIRD_PARTY_LICENSES.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| (\S+) \|", text, re.MULTILINE))
    extras = PROJECT["optional-dependencies"].values()
    needed = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in needed}
    assert names - {PROJECT["name"]} <= listed, "run `python .ci/licenses.py`"
    assert "not installed here" not in text


@pytest.mark.skipif(not (ROOT / ".ci" / "build.py").is_file(), reason="not a git checkout")
def test_repacking_an_archive_forgets_who_packed_it_and_when(tmp_path):
    repack = script("build").repack
    content = {"p/b.txt": b"b", "p/a.txt": b"a"}
    for number, names in enumerate([sorted(content), sorted(content, reverse=True)]):
        with tarfile.open(tmp_path / f"{number}.tar.gz", "w:gz") as archive:
            for name in names:
                path = tmp_path / "file"
                path.write_bytes(content[name])
                path.chmod(0o600 + 0o044 * number)
                entry = archive.gettarinfo(path, name)
                entry.mtime, entry.uname = 1000.5 + number, f"user {number}"
                archive.addfile(entry, path.open("rb"))
        repack(tmp_path / f"{number}.tar.gz", tmp_path / f"{number}.out.tar.gz", 10**9)
    first, second = ((tmp_path / f"{number}.out.tar.gz").read_bytes() for number in (0, 1))
    assert first == second
    with tarfile.open(tmp_path / "0.out.tar.gz") as archive:
        assert archive.getnames() == ["p/a.txt", "p/b.txt"]
        assert archive.extractfile("p/b.txt").read() == b"b"


@pytest.mark.parametrize(
    ("package", "oldest"),
    [
        ("torch", (2, 10)),
        ("pillow", (12, 3)),
        ("lightning", (2, 6, 6)),
        ("starlette", (0, 49, 1)),
        ("jinja2", (3, 1, 6)),
    ],
)
def test_no_requirement_admits_a_release_with_a_known_hole(package, oldest):
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    bounds = [line.split(">=")[1] for line in lines if line.split(">=")[0] == package]
    assert bounds
    for bound in bounds:
        assert tuple(map(int, bound.split("."))) >= oldest


def test_a_licence_that_metadata_leave_open_is_read_from_its_text(tmp_path, monkeypatch):
    licenses = script("licenses")
    cases = {
        "expression": ("License-Expression: MIT\nLicense: other\n", "", "MIT"),
        "unknown": (
            "License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n",
            "",
            "MIT License",
        ),
        "whole-text": ("License: Apache License\n        Version 2.0\n", "", "Apache License"),
        "file-only": ("", "\n  BSD 2-Clause License\n\nText\n", "BSD 2-Clause License"),
        "none": ("", "", "not stated"),
    }
    for name, (about, text, _) in cases.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
        (folder / "METADATA").write_text(head + about)
        (folder / "LICENSE").write_text(text)
        (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n{folder.name}/LICENSE,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {name: licenses.license_of(name) for name in cases}
    assert found == {name: wanted for name, (_, _, wanted) in cases.items()}
    assert licenses.license_of("no-such-package") == "not installed here"


def test_every_listed_licence_has_a_name():
    text = (ROOT / "THIRD_PARTY_LICENSES.md").read_text(encoding="utf-8")
    assert "UNKNOWN" not in text
    assert "not stated" not in text
    assert "x264, x265 | encode H.264 and H.265 | GPL-2.0-or-later" in text
