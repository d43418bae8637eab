"""The site of the pages: built strictly, so without a link that leads nowhere, and loading nothing from elsewhere."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import error_texts
import pytest

import modist_fast
import modist_kernels
from tests.commands.launching import REPOSITORY, run_words

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = run_words(words, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads by itself, unlike what its links lead to; and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        if name and values.get(name) and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values[name] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Loaded:
    parser = Loaded()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted((REPOSITORY / "docs").rglob("*.md"))
    assert len(pages) > 30
    for page in pages:
        built = site / page.relative_to(REPOSITORY / "docs").with_suffix(".html")
        found = read(built).found
        assert found, built
        assert [name for name in found if "//" in name and not name.startswith("data:")] == [], built
        assert [name for name in found if not (built.parent / name.partition("?")[0]).exists()] == [], built
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*['\"]?https?:", style.read_text(encoding="utf-8")), style


def test_the_site_has_all_errors_and_all_public_names(site: Path) -> None:
    words = " ".join(read(site / "errors.html").text.split())
    for text in error_texts.texts():
        for part in filter(None, text.split):
            assert " ".join(part.replace("`", "").split()) in words.replace("`", ""), text.words
    names = (site / "api.html").read_text(encoding="utf-8")
    for name in modist_fast.__all__:
        assert name == "__version__" or re.search(rf'id="modist_fast\.[\w.]*{name}"', names), name
    for name in modist_kernels.__all__:
        assert f'id="modist_kernels.{name}"' in names, name
