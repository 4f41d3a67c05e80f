"""Keep parts of other files in the pages, so that nothing is written twice.

    python docs/includes.py

refreshes what stands between ``<!-- include ... -->`` and ``<!-- end -->`` in ``docs/*.md``:

- ``README.md # Labels that are wrong``: the text under that heading;
- ``examples/lightning_training.py # BalancedClassifier``: that class or function;
- ``docs/pieces.svg``: a picture; the site has it inline, in the colours of its theme;
- ``benchmarks/results/*.md``: a list of these files; the site has them whole;
- ``examples/arbex/recipes/quick.yaml``: that recipe;
- ``recipes``: every field of a recipe, with its values in the named ones;
- ``modules``: an index of the public names; the site has their documentation.

As a hook of mkdocs it puts in what the site has.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reliability_balance.core import RECIPES, Recipe

PartT = TypeVar("PartT")

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"
REGION = re.compile(
    r"^(<!-- include (\S+?)(?: # (.+?))? -->)\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what the site has into one page."""
    return REGION.sub(lambda match: include(match[2], match[3], for_site=True), markdown)


def refresh(markdown: str) -> str:
    """Return the page with its regions as their sources are now."""
    return REGION.sub(
        lambda match: f"{match[1]}\n{include(match[2], match[3])}\n<!-- end -->", markdown
    )


def include(path: str, title: str | None, *, for_site: bool = False) -> str:
    """Return the text of one region.

    Raises:
        FileNotFoundError: if there is no such file.
        KeyError: if it has no such part.
    """
    if path == "modules":
        return "\n\n".join(_documentation() if for_site else _index())
    if path == "recipes":
        return "\n".join(_recipes())
    files = sorted(ROOT.glob(path))
    if not files:
        raise FileNotFoundError(f"an included file must exist; got {path}")
    if title is None:
        show = SHOWN_WHOLE[files[0].suffix][0 if for_site else 1]
        return "\n".join(map(show, files)).strip()
    text = files[0].read_text(encoding="utf-8")
    if path.endswith(".py"):
        node = _part(_definitions(text), path, title)
        code = ast.get_source_segment(text, node) or ""
        return f"```python\n{re.sub(r'  # type: ignore.*', '', code)}\n```"
    section = _part(_sections(text), path, title)
    return section.replace("](docs/", "](").strip()  # links, as they read from a page


def _part(parts: Mapping[str, PartT], path: str, title: str) -> PartT:
    if title not in parts:
        raise KeyError(f"{path} must have a part `{title}`; got {', '.join(parts)}")
    return parts[title]


def _report(file: Path) -> str:
    """A file of results, its headings one level down."""
    return re.sub(r"^(?=#+ )", "#", file.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _link(file: Path) -> str:
    """A file of results, by its name and title."""
    title = file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return f"- [`{file.name}`](../{file.relative_to(ROOT).as_posix()}): {title}"


def _code(file: Path) -> str:
    """A file, as code of its kind."""
    return f"```{file.suffix[1:]}\n{file.read_text(encoding='utf-8').strip()}\n```"


def _inline(file: Path) -> str:
    """A picture, drawn in the page itself."""
    return f'<div class="figure">\n{file.read_text(encoding="utf-8").strip()}\n</div>'


def _picture(file: Path) -> str:
    """A picture, by its title."""
    title = re.search(r"<title>(.+?)</title>", file.read_text(encoding="utf-8"))
    return f"![{title[1] if title else file.stem}]({file.relative_to(PAGES).as_posix()})"


# How a whole file is shown on the site, and how in the repository.
SHOWN_WHOLE: dict[str, tuple[Callable[[Path], str], Callable[[Path], str]]] = {
    ".md": (_report, _link),
    ".svg": (_inline, _picture),
    ".yaml": (_code, _code),
}


def _recipes() -> Iterator[str]:
    """A table of the fields of a recipe; its docstring describes them."""
    text = inspect.cleandoc(Recipe.__doc__ or "").partition("Args:\n")[2]
    described = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE))
    yield f"| field | {' | '.join(f'`{name}`' for name in RECIPES)} | what it is |"
    yield f"|---|{'---|' * len(RECIPES)}---|"
    for field in dataclasses.fields(Recipe):
        values = (str(getattr(recipe, field.name)) for recipe in RECIPES.values())
        meaning = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", " ".join(described[field.name].split()))
        yield f"| `{field.name}` | {' | '.join(values)} | {meaning} |"


def _public_modules() -> Iterator[tuple[str, Path, list[str]]]:
    """Each module that has an ``__all__``: its name, its file, and the names that it lists."""
    # Backbones by their real folder, to which the package has a link.
    for folder, parent in (("reliability_balance", ""), ("backbones", "reliability_balance.")):
        for file in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    listed = ast.literal_eval(node.value)
                    yield (parent + module).removesuffix(".__init__"), file, listed


def _documentation() -> Iterator[str]:
    """Ask mkdocstrings for each name, where its own module lists it; the root's are an index."""
    (_, file, listed), *others = _public_modules()
    yield _table(file, listed)
    for name, _, listed in others:
        yield f"::: {name}\n    options:\n      members: [{', '.join(listed)}]"


def _index() -> Iterator[str]:
    """Each module with its public names, and the first line of each docstring."""
    for name, file, listed in _public_modules():
        yield f"### [{name}](../{file.relative_to(ROOT).as_posix()})"
        yield _first_line(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))
        yield _table(file, listed)


def _table(file: Path, listed: list[str]) -> str:
    rows = [f"| `{name}` | {_first_line(_docstring(file, name))} |" for name in listed]
    return "\n".join(["| name | |", "|---|---|", *rows])


def _docstring(file: Path, name: str) -> str | None:
    """The docstring of a name that a module has, also where it is imported from another one."""
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    for node, after in zip(nodes, [*nodes[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            source = ROOT / (node.module or "").replace(".", "/")
            return _docstring(
                source / "__init__.py" if source.is_dir() else Path(f"{source}.py"), name
            )
        if (
            isinstance(node, ast.Assign | ast.AnnAssign)
            and ast.unparse(node).split()[0].rstrip(":") == name
        ):
            return ast.literal_eval(after.value) if isinstance(after, ast.Expr) else None
    raise KeyError(f"{file} must have `{name}`, which an __all__ lists")


def _first_line(docstring: str | None) -> str:
    line = (docstring or "").partition("\n")[0]
    line = re.sub(r":(?:class|func|meth|mod):`~?([\w.]+)`", r"`\1`", line)
    return line.replace("``", "`").replace("|", r"\|")


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _definitions(text: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    nodes = ast.parse(text).body
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def main() -> None:
    """Refresh all pages."""
    for page in sorted(PAGES.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = refresh(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
