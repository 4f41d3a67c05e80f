"""The documentation: its code runs, its site builds without a warning and loads nothing else."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from public_api import public_objects

from reliability_balance.core import RECIPES

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("includes", ROOT / "docs" / "includes.py")
includes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(includes)
PAGES = sorted((ROOT / "docs").glob("*.md"))
LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src")}


def own_code(page):
    """The page's Python, without what it includes, which is tested where it comes from."""
    text = includes.REGION.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [each for each in PAGES if own_code(each)], ids=lambda p: p.stem)
def test_the_pages_python_runs_in_its_order(page, tmp_path, monkeypatch):
    for package in ("lightning", "onnxscript", "timm"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in own_code(page):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_hold_what_they_include(page):
    text = page.read_text(encoding="utf-8")
    assert includes.refresh(text) == text, "run `python docs/includes.py`"
    assert (
        text.count("<!-- include ")
        == text.count("<!-- end -->")
        == len(includes.REGION.findall(text))
    )
    assert "{{" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_a_page_is_refreshed_from_its_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(includes, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# T\n\n## One\n\n[a](docs/b.md)\n\n## Two\n\nlast\n")
    (tmp_path / "code.py").write_text("import os\n\n\ndef f():\n    return os  # type: ignore[x]\n")
    page = (
        "before\n<!-- include README.md # One -->\nold\n<!-- end -->\n"
        "<!-- include code.py # f -->\n<!-- end -->\nafter\n"
    )
    assert includes.refresh(page) == (
        "before\n<!-- include README.md # One -->\n[a](b.md)\n<!-- end -->\n"
        "<!-- include code.py # f -->\n```python\ndef f():\n    return os\n```\n<!-- end -->\n"
        "after\n"
    )
    assert includes.on_page_markdown(page) == (
        "before\n[a](b.md)\n```python\ndef f():\n    return os\n```\nafter\n"
    )
    with pytest.raises(KeyError, match="must have a part `Three`; got One, Two"):
        includes.include("README.md", "Three")
    with pytest.raises(FileNotFoundError, match=r"got none\.md"):
        includes.include("none.md", None)


def test_the_table_of_recipes_is_theirs():
    rows = re.findall(
        r"^\| `(\w+)` \| ([\w.]+) \| ([\w.]+) \|",
        (ROOT / "docs" / "recipes.md").read_text(),
        re.MULTILINE,
    )
    for column, name in ((1, "robust"), (2, "paper")):
        documented = {row[0]: row[column] for row in rows}
        assert documented == {field: str(value) for field, value in vars(RECIPES[name]).items()}


class Loaded(HTMLParser):
    """Collects what a page loads, as against what it links to."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if (tag, name) in LOADING]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    return folder


def test_the_site_builds_and_loads_nothing_from_elsewhere(site):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert set(pages) >= {page.stem for page in PAGES}
    for name, html in pages.items():
        parser = Loaded()
        parser.feed(html)
        assert parser.addresses, name
        assert not [each for each in parser.addresses if each.startswith(("http", "//"))], name
        assert "<!-- include" not in html, name


def test_every_public_name_is_documented(site):
    html = (site / "api.html").read_text(encoding="utf-8")
    names = public_objects()
    index = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert len(names) > 50
    assert not [name for name in names if f"`{name.rpartition('.')[2]}`" not in index]
    assert not [name for name in names if f'id="{name}"' not in html]
    assert not re.findall(r":(?:class|func|meth|mod):|\.\. math::", html)
