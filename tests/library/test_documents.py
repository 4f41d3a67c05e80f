"""README, docstrings and package lists say what is so."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
from public_api import NEED_AN_EXTRA, public_modules, public_objects

import reliability_balance
from reliability_balance import functional

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs_in_its_order():
    namespace = {}
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["output"].corrected.shape == (397, 10)


def test_the_readme_has_the_two_commands():
    for marker in ("<!-- main job -->", "<!-- tests -->"):
        command = README.split(marker)[1].split("```sh\n")[1].split("```")[0].strip()
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


def rows_of(table):
    """The rows of Markdown tables, without their alignment."""
    rows = {tuple(cell.strip() for cell in line.split("|")) for line in table.splitlines()}
    return {row for row in rows if not set("".join(row)) <= {"-", ":"}}


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_tables_of_results_are_the_benchmarks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rendered = (ROOT / "benchmarks/results/robustness.md").read_text(encoding="utf-8")
    start = text.index("| data, labels | cross-entropy")
    shown = rows_of(text[start : text.index("\n\n", start)])
    assert len(shown) >= 5
    assert shown <= rows_of(rendered)
    (documented,) = re.findall(r"^Of \d+ settings.*", rendered, re.MULTILINE)
    (shown,) = re.findall(r"Of \d+ settings[^.]*\.", " ".join(text.split()))
    assert re.findall(r"\d+", shown) == re.findall(r"\d+", documented)


@pytest.mark.parametrize(
    "thing",
    [
        pytest.param(thing, id=name)
        for name, thing in public_objects().items()
        if inspect.isclass(thing) or inspect.isfunction(thing)
    ],
)
def test_public_docstrings_name_every_argument(thing):
    text = inspect.getdoc(thing)
    assert text, "no docstring"
    if "Args:" in text:
        documented = re.findall(r"^    ([*\w, ]+): ", text.split("Args:")[1], re.MULTILINE)
        names = {name.strip(" *") for group in documented for name in group.split(",")}
        assert set(inspect.signature(thing).parameters) <= names


def names_in(namespace):
    """Each name, and `Class.member` of each class."""
    for name, thing in namespace.items():
        if not inspect.ismodule(thing):
            yield name
        if inspect.isclass(thing):
            annotated = getattr(thing, "__annotations__", ())
            yield from (f"{name}.{member}" for member in (*dir(thing), *annotated))


AT_THE_ROOT = {
    f"reliability_balance.{name}": getattr(reliability_balance, name)
    for name in reliability_balance.__all__
}
PUBLIC = {
    *names_in(public_objects() | AT_THE_ROOT),
    *(module.__name__ for module in public_modules()),
    *NEED_AN_EXTRA,
}
PACKAGES = pkgutil.walk_packages(reliability_balance.__path__, "reliability_balance.")
MODULES = ["reliability_balance", *(each.name for each in PACKAGES)]
READ_BY_THE_SITE = {"class", "func", "meth", "mod"}  # see docs/sphinx_docstrings.py


@pytest.mark.parametrize("name", MODULES)
def test_references_in_docstrings_resolve(name):
    """From any package above the module if public; otherwise within the module."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        assert name in NEED_AN_EXTRA
        pytest.skip("needs an extra")
    own = set(names_in(vars(module)))
    own |= {each.rpartition(".")[2] for each in own}  # a class's own members
    homes = ["", *(f"{home}." for home in accumulate(name.split("."), "{}.{}".format))]
    text = Path(module.__file__).read_text(encoding="utf-8")
    for role, target in re.findall(r":([a-z]+):`~?([^`]+)`", text):
        assert role in READ_BY_THE_SITE, f":{role}:`{target}`"
        assert target in own or any(home + target in PUBLIC for home in homes), target


EQUATIONS = [getattr(functional, name) for name in functional.__all__]


@pytest.mark.parametrize("thing", EQUATIONS, ids=lambda thing: thing.__name__)
def test_functions_of_equations_tell_all(thing):
    for section in ("Args:", "Shape:", "Raises:", "Example:"):
        assert section in inspect.getdoc(thing)


@pytest.mark.parametrize("name", reliability_balance.__all__)
def test_root_names_have_a_runnable_example(name):
    thing = getattr(reliability_balance, name)
    if name not in ("__version__", "BalancerOutput"):
        assert ">>> " in inspect.getdoc(thing)


def test_every_folder_with_code_is_packaged():
    """One that is not listed is left out of the wheel without an error."""
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {"reliability_balance"}
    for folder in (ROOT / "reliability_balance", ROOT / "backbones"):
        for init in folder.rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            within = parts if parts[0] == "reliability_balance" else ("reliability_balance", *parts)
            found.add(".".join(within))
    assert listed == found
    directories = PROJECT["tool"]["setuptools"]["package-dir"]
    for package in listed:
        top = max((key for key in directories if package.startswith(key)), key=len)
        rest = package.removeprefix(top).strip(".").replace(".", "/")
        assert (ROOT / directories[top] / rest / "__init__.py").is_file(), package


def test_importing_costs_torch_and_nothing_else_heavy():
    code = (
        "import sys, torch, numpy, typing_extensions; before = set(sys.modules);"
        "import reliability_balance;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(run.stdout.split()) - set(sys.stdlib_module_names)
    assert loaded <= {"reliability_balance", "numpy"}


def test_backbones_have_one_name_only():
    code = "import sys; sys.path.insert(0, '.'); import backbones"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "import reliability_balance.backbones, not backbones" in run.stderr


def test_the_version_is_told_in_one_place():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == reliability_balance.__version__


def test_no_file_names_a_machines_path():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    words = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", "file:" + "///"]))
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".svg"}:
            assert not words.search(path.read_text(encoding="utf-8")), name
