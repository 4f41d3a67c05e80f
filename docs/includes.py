"""Put parts of other files into a page, so that nothing is told twice.

A line of its own becomes what it names:

- ``{{ README.md # Labels that are wrong }}``: the text under that heading;
- ``{{ examples/lightning_training.py # BalancedClassifier }}``: that class or function;
- ``{{ benchmarks/results/*.md }}``: all of these files, their headings one level down;
- ``{{ modules }}``: the documentation of every public module of the library.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVE = re.compile(r"^\{\{ (?P<path>\S+?)(?: # (?P<title>.+?))? \}\}$", re.MULTILINE)
# Links of the included files, as they read from a page of the site.
MOVED = {"docs/": "", "benchmarks/README.md": "benchmarks.md"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Resolve the lines of one page."""
    return DIRECTIVE.sub(lambda match: include(match["path"], match["title"]), markdown)


def include(path: str, title: str | None) -> str:
    """Return what a line stands for.

    Raises:
        FileNotFoundError: if there is no such file.
        KeyError: if it has no such part.
    """
    if path == "modules":
        return "\n\n".join(public_modules())
    files = sorted(ROOT.glob(path))
    if not files:
        raise FileNotFoundError(f"an included file must exist; got {path}")
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    if title is None:
        return re.sub(r"^(?=#+ )", "#", text, flags=re.MULTILINE).strip()
    if path.endswith(".py"):
        code = re.sub(r"  # type: ignore.*", "", _definitions(text)[title])
        return f"```python\n{code}\n```"
    section = _sections(text)[title]
    for old, new in MOVED.items():
        section = section.replace(f"]({old}", f"]({new}")
    return section.strip()


def public_modules() -> Iterator[str]:
    """Ask for every module of the library whose name does not begin with an underscore."""
    for file in sorted((ROOT / "reliability_balance").glob("[!_]*.py")):
        yield f"::: reliability_balance.{file.stem}"
    # By the real folder, to which the package has a link.
    for file in sorted((ROOT / "backbones").rglob("*.py")):
        *packages, module = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("reliability_balance", *packages))
        if module == "__init__":  # what it merely imports is told where it is defined
            own = ", ".join(_definitions(file.read_text(encoding="utf-8")))
            yield f"::: {name}\n    options:\n      members: [{own}]"
        elif not module.startswith("_"):
            yield f"::: {name}.{module}"


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _definitions(text: str) -> dict[str, str]:
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    return {node.name: ast.get_source_segment(text, node) or "" for node in nodes}
