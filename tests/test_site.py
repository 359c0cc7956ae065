"""The pages that the site has beside docs/, and what its build refuses. `make docs` builds all of it."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from proximo.runs.health.codes import CODES
from proximo.views.explain.explain import explain

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("mkdocs_pages", ROOT / "mkdocs_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text",
    [
        '<script async src="https://cdn.example/x.js"></script>',
        "<img alt=x src=//example.org/x.png>",
        '<link rel="preconnect" href="https://fonts.example">',
        "<style>@import 'http://example.org/x.css';</style>",
        "<style>body { background: url(https://example.org/x.png) }</style>",
    ],
)
def test_a_page_that_would_load_something_is_seen(hooks, tmp_path, text):
    (tmp_path / "inner").mkdir()
    page = tmp_path / "inner" / "page.html"
    page.write_text('<a href="https://arxiv.org/abs/1707.06347">a link is none</a><script src="x.js"></script>')
    assert not list(hooks.loaded(tmp_path))
    page.write_text(page.read_text() + text)
    assert len(list(hooks.loaded(tmp_path))) == 1


def test_the_pages_tell_of_every_setting_metric_and_finding(hooks):
    pages = dict(hooks.generated())
    names = explain()
    for page, expected in (("settings.md", names.settings), ("metrics.md", names.metrics)):
        assert re.findall(r"^## `([^`]+)`", pages[page], re.MULTILINE) == list(expected)
    assert {f"health/{code.page.name}" for code in CODES.values()} <= set(pages)
    for target in re.findall(r"\]\((health/[^)]+)\)", pages["settings.md"] + pages["metrics.md"]):
        assert target in pages


def test_what_is_searched_for_is_found_in_pages_that_are_opened_from_the_disk(tmp_path):
    """Of a small site with the plugins of ours; the large one takes the time of `make docs`."""
    from browser import chromium
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"))
    pages = tmp_path / "docs"
    shutil.copytree(ROOT / "docs" / "assets", pages / "assets")
    (pages / "inner").mkdir()
    (pages / "index.md").write_text("# Start\n\nNothing here.\n")
    (pages / "inner" / "page.md").write_text("# Page\n\nHere stands sesquipedalian.\n")
    small = {"site_name": "small", "theme": {"name": "material", "font": False}, "use_directory_urls": False}
    small |= {"extra": {"polyfills": config.extra["polyfills"]}, "plugins": ["search", "offline"]}
    assert {"material/search", "material/offline"} <= set(config.plugins)
    (tmp_path / "mkdocs.yml").write_text(json.dumps(small))
    build(load_config(str(tmp_path / "mkdocs.yml")))
    with chromium(tmp_path / "profile") as page:
        page.size(1280, 900)
        for name in ("index", "inner/page"):
            page.open(f"file://{tmp_path}/site/{name}.html")
            page.wait("getComputedStyle(document.querySelector('.md-search')).display !== 'none'", 10)
            page.run("document.querySelector('.md-search__input').focus()")
            page.call("Input.insertText", text="sesquipedalian")
            page.wait("document.querySelectorAll('.md-search-result__item').length === 1", 30)
            assert page.errors == []
            assert all(url.startswith("file:") for url in page.requests)
