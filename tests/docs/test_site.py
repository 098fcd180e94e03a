"""The documentation builds as a site, strictly; it needs nothing of another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from devstack.environments import DOCS, is_whole
from tests.conftest import DEVELOPERS_ENVIRONMENT
from tests.docs.pages import PAGES, ROOT

# The first one may have to install what builds the site.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What a browser would fetch by itself.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src"}


class Fetched(HTMLParser):
    """The addresses that a page makes a browser fetch, and the text of its paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.paragraphs: list[str] = []
        self._in_paragraph = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in FETCHED and given.get("rel") != "canonical" and given.get(FETCHED[tag]):
            self.addresses.add(str(given[FETCHED[tag]]))
        if tag == "p":
            self.paragraphs.append("")
        self._in_paragraph = tag == "p" or (self._in_paragraph and tag not in ("ul", "ol", "pre"))

    def handle_endtag(self, tag: str) -> None:
        self._in_paragraph = self._in_paragraph and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._in_paragraph:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if not is_whole(DOCS):
        command = [sys.executable, "-m", "devstack.environments", "docs"]
        subprocess.run(command, cwd=ROOT, env=DEVELOPERS_ENVIRONMENT, check=True)
    folder = tmp_path_factory.mktemp("site")
    mkdocs = DOCS.folder / "bin" / "mkdocs"
    done = subprocess.run(
        [str(mkdocs), "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    names = {page.relative_to(ROOT / "docs") for page in PAGES if page.parent != ROOT}
    built = {
        page.with_name("index.html" if page.stem == "README" else f"{page.stem}.html")
        for page in names
    }
    assert [str(page) for page in sorted(built) if not (site / page).exists()] == []


def test_a_browser_fetches_nothing_from_another_host(site: Path) -> None:
    fetched = {
        (page.name, address)
        for page in site.rglob("*.html")
        for address in Fetched(page.read_text(encoding="utf-8")).addresses
        if re.match(r"(?:\w+:)?//", address)
    }
    styles = [file.name for file in site.rglob("*.css") if "url(http" in file.read_text("utf-8")]
    assert (fetched, styles) == (set(), [])


def test_no_list_has_become_a_paragraph(site: Path) -> None:
    """The site wants a blank line before a list; GitHub does not."""
    lost = [
        (page.name, text)
        for page in site.rglob("*.html")
        for text in Fetched(page.read_text(encoding="utf-8")).paragraphs
        if re.search(r"\n(?:[-*]|\d+\.) ", text)
    ]
    assert lost == []
