"""Every link in the documentation leads somewhere, and every page is linked."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links, name

LINKS = [(page, target) for page in PAGES for target in links(page)]
INSIDE = [(page, target) for page, target in LINKS if "://" not in target]


def destination(page: Path, target: str) -> Path:
    """The file that a link leads to."""
    path = target.partition("#")[0]
    return (page.parent / path).resolve() if path else page


@pytest.mark.parametrize(("page", "target"), INSIDE, ids=lambda value: str(value))
def test_a_link_leads_to_something(page: Path, target: str) -> None:
    there = destination(page, target)
    assert there.exists(), f"{name(page)} links to {target}"
    assert there.is_relative_to(ROOT), "outside of the repository it is another file for everybody"
    anchor = target.partition("#")[2]
    assert not anchor or anchor in anchors(there), f"{name(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            ahead += [destination(page, target) for target in links(page) if "://" not in target]
    assert {name(page) for page in PAGES} <= {name(page) for page in reached}


def test_links_to_other_hosts_are_encrypted() -> None:
    assert [target for _, target in LINKS if target.startswith("http://")] == []


#: What names pages beside the pages themselves.
CODE = {".py", ".tsv", ".yaml", ".tf", ".conf", ".cfg", ".toml"}


def named_by_the_code() -> set[tuple[str, str]]:
    """Each page, or section of one, that a file of code names: (file, page)."""
    tops = [
        top for top in ROOT.iterdir() if top.name[0] != "." and top.name not in ("docs", "site")
    ]
    files = [file for top in tops for file in (top.rglob("*") if top.is_dir() else [top])]
    return {
        (name(file), named)
        for file in files
        if file.suffix in CODE and file.is_file()
        for named in re.findall(
            r"\bdocs/[a-z/-]+\.md(?:#[a-z-]+)?", file.read_text(encoding="utf-8")
        )
    }


@pytest.mark.parametrize(("file", "named"), sorted(named_by_the_code()))
def test_a_page_that_the_code_names_exists(file: str, named: str) -> None:
    path, _, anchor = named.partition("#")
    assert (ROOT / path).exists(), f"{file} names {named}"
    assert not anchor or anchor in anchors(ROOT / path), f"{file} names {named}"
