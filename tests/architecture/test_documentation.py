"""The documentation is connected: links resolve, and the index page leads to every page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "README.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def links(page: Path) -> list[str]:
    """Return the targets of relative links, without those in code blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_resolve(page: Path) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page

        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_source_paths_named_by_a_page_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:embedding|index|training|service|tests|benchmarks|deploy)/[\w/.-]+(?:\.py|/))`", page.read_text()
    )

    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_index_names_every_page() -> None:
    linked = {(INDEX.parent / target.partition("#")[0]).resolve() for target in links(INDEX)}

    assert set((ROOT / "docs").rglob("*.md")) - linked == {INDEX}


def test_the_readme_leads_to_the_index() -> None:
    assert "docs/README.md" in links(ROOT / "README.md")


def test_decisions_are_short() -> None:
    lengths = {page.name: len(page.read_text().splitlines()) for page in (ROOT / "docs" / "decisions").iterdir()}

    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_the_architecture_page_describes_every_room() -> None:
    described = re.findall(r"^\| `(\w+)` \| ", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    rooms = {path.parent.name for path in (ROOT / "service").glob("*/__init__.py")}

    assert rooms <= set(described)
