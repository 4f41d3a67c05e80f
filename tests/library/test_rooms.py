"""The library's rooms: what each module imports from where, read from the code."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "reliability_balance"
PACKAGE = ROOT.name
MODULES = {
    ".".join((PACKAGE, *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): file
    for folder in (ROOT, *(each for each in ROOT.iterdir() if each.is_dir()))
    for file in folder.rglob("*.py")
}


def room(module):
    """Each folder is one, and each module beside them."""
    return ".".join(module.split(".")[:2])


def imported(module):
    """(module, name) of each import, also in functions and under TYPE_CHECKING; None: a module."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, None) if whole in MODULES else (node.module, alias.name)


IMPORTS = {module: set(imported(module)) for module in MODULES}


def test_every_module_is_read():
    assert len(MODULES) > 60
    assert sum(map(len, IMPORTS.values())) > 200


def test_modules_import_each_other_in_one_direction():
    graph = {module: {source for source, _ in found} for module, found in IMPORTS.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, with the modules of the cycle


def test_rooms_import_each_other_in_one_direction():
    graph = {room(module): set() for module in MODULES}
    for module, found in IMPORTS.items():
        graph[room(module)] |= {room(source) for source, _ in found} - {room(module)}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_private_is_imported_from_another_room(module):
    private = [
        f"{source}.{name}" if name else source
        for source, name in IMPORTS[module]
        if room(source) != room(module)
        and any(part.startswith("_") for part in (*source.split("."), name or ""))
        and name != "__version__"
    ]
    assert not private
