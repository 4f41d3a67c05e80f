"""List the licence of everything that the project may install.

    python .ci/licenses.py

reads the metadata of what is installed beside it (the extra `dev` has all) and writes
`THIRD_PARTY_LICENSES.md`. Nothing of these packages is shipped in ours.
"""

import sys
from collections import deque
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LONGEST = 120  # characters of a licence's name; some packages put the whole text there


def project_requirements(extra: str | None) -> list[Requirement]:
    """The requirements of the library, or of one of its extras with those it builds on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) == project["name"]:
            for inner in sorted(requirement.extras):
                found += project_requirements(inner)
        else:
            found.append(requirement)
    return found


def closure(requirements: list[Requirement]) -> Iterator[str]:
    """The names of all packages that these bring, directly or not."""
    waiting, seen = deque(requirements), set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.popleft()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        yield name
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for inner in map(Requirement, lines):
            marker = inner.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
                waiting.append(inner)


def license_of(name: str) -> str:
    """What the package's metadata call its licence."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    classifiers = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    told = (about.get("License-Expression") or "", about.get("License") or "")
    short = [text.strip() for text in told if 0 < len(text.strip()) <= LONGEST and "\n" not in text]
    return (short or [", ".join(classifiers)])[0] or "see its files"


def main() -> None:
    """Write the list."""
    core = set(closure(project_requirements(None)))
    everything = core | set(closure(project_requirements("dev")))
    rows = [
        f"| {name} | {license_of(name)} | {'library' if name in core else 'extras'} |"
        for name in sorted(everything)
    ]
    text = [
        "# Licences of other packages",
        "",
        "What `pip install` brings on Linux, by the packages' own metadata (`python "
        ".ci/licenses.py`). None of it is shipped with this project. The NVIDIA libraries come "
        "with torch's own wheels for Linux; torch for processors alone does without them.",
        "",
        "| package | licence | needed by |",
        "|---|---|---|",
        *rows,
    ]
    (ROOT / "THIRD_PARTY_LICENSES.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
