"""List the licence of everything that the project may install.

    python .ci/licenses.py

reads the metadata of what is installed beside it (the extra `dev` has all) and writes
`THIRD_PARTY_LICENSES.md`. Nothing of these packages is shipped in ours.
"""

import sys
from collections import deque
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LONGEST = 120  # characters of a licence's name; some packages put the whole text there
# Packages that hold no code and name no licence.
NOT_STATED = {"cuda-toolkit": "none named; an empty package that brings NVIDIA's libraries"}
CODECS = """\
## Libraries inside the av wheel

The extra `arbex` reads videos with `av`, whose wheels hold FFmpeg and its codecs as shared
libraries. av's own licence (BSD-3-Clause) does not cover them. FFmpeg 8.1.2 in the Linux wheel of
av 18.1 reports "LGPL version 3 or later" (`--enable-version3`). Beside it lie:

| library | what it does | licence |
|---|---|---|
| x264, x265 | encode H.264 and H.265 | GPL-2.0-or-later |
| SVT-AV1 | encodes AV1 | BSD-3-Clause-Clear, with the patent licence of AOMedia |
| dav1d | decodes AV1 | BSD-2-Clause |
| libvpx | VP8 and VP9 | BSD-3-Clause |
| Opus | audio | BSD-3-Clause |
| LAME | encodes MP3 | LGPL-2.0-or-later |
| opencore-amr | AMR speech | Apache-2.0 |
| libwebp | WebP | BSD-3-Clause |
| oneVPL | Intel's video units | MIT |
| GnuTLS | encrypted streams | LGPL-2.1-or-later |
| Nettle, GMP, libunistring | for GnuTLS | LGPL-3.0-or-later or GPL-2.0-or-later |
| libxcb, libXau, libdrm, ALSA | screens and sound | MIT; ALSA LGPL-2.1-or-later |

FFmpeg decodes H.264, H.265, MPEG-4 and most other formats by itself. This project only decodes; it
encodes no video. Redistributing an environment that contains the wheel redistributes these
libraries, x264 and x265 under the GPL. Patents on H.264, H.265 and AAC are another matter, which
none of these licences settles."""


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
    """What the package's metadata call its licence, else how the text of its licence begins."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return "not installed here"
    about = package.metadata
    classifiers = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    texts = [
        str(file.locate().read_text(encoding="utf-8", errors="replace"))
        for file in package.files or []
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))
    ]
    named = [about.get("License-Expression"), about.get("License")]
    short = [text for text in named if text and "\n" not in text and len(text) <= LONGEST]
    for text in [*short, ", ".join(classifiers), *filter(None, named), *texts]:
        first = text.strip().partition("\n")[0].strip()
        if first and first.upper() != "UNKNOWN":
            return first[:LONGEST]
    return NOT_STATED.get(canonicalize_name(name), "not stated")


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
        "",
        CODECS,
    ]
    (ROOT / "THIRD_PARTY_LICENSES.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
