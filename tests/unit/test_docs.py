"""The pages in docs/ keep together: one heading for one thing, links that lead somewhere."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ids = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@ids
def test_no_heading_stands_twice(page):
    headings = Counter(re.findall(r"^#+ .*$", page.read_text(), re.MULTILINE))
    assert [heading for heading, count in headings.items() if count > 1] == []


@ids
def test_links_to_files_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@ids
def test_files_that_are_named_exist(page):
    folders = "archer|benchmarks|conf|docker|docs|examples|requirements|scripts|tests"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text())
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


@ids
def test_nothing_is_left_to_fill_in(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^[A-Z][A-Z_]+$|\b(?:TODO|TBD|FIXME|XXX)\b", text, re.MULTILINE) == []


def test_the_tree_of_the_architecture_page_is_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page[page.index("archer/\n") + len("archer/\n") : page.index("\nconf/ ")]
    named: set[str] = set()
    folder = ""
    for words in (re.split(" {2,}", line) for line in tree.splitlines()):
        top = {word for word in words[1:] if re.fullmatch(r"\w+(\.py|/)", word)}
        named |= top
        folder = next((word for word in top if word.endswith("/")), folder)
        inside = re.findall(r"\w+(?:\.py|/)", " ".join({*words} - top))
        assert [name for name in inside if not (ROOT / "archer" / folder / name).exists()] == []
    package = [path for path in (ROOT / "archer").iterdir() if not path.name.startswith("__")]
    assert named == {path.name + "/" * path.is_dir() for path in package}


@pytest.mark.parametrize(
    "preset", sorted((ROOT / "conf" / "algo").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_algorithm_has_one_row_among_the_objectives(preset):
    page = (ROOT / "docs" / "algorithms.md").read_text()
    table = page[page.index("## Objectives") : page.index("## The pieces")]
    assert len(re.findall(rf"^\| `{preset.stem}` \|", table, re.MULTILINE)) == 1
