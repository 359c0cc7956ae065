"""Hooks of `mkdocs build`: pages made of the code, links that leave docs/, and a look for what needs a network."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert as to_mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from proximo.control import presets as control
from proximo.language import stages as language
from proximo.runs.health.codes import CODES, PAGES
from proximo.views.explain.explain import facts_of_metric, facts_of_setting, texts_of
from proximo.views.explain.settings import settings
from proximo.views.metrics_others import FAMILIES, OTHERS
from proximo.views.metrics_texts import TEXTS

ROOT = Path(__file__).parent
MODULES = ("proximo", "proximo.language", "proximo.algorithms", "proximo.schedules")
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the repository's root, and where they are on the site."""
HEALTH = "src/proximo/runs/health/pages/"
_LINK = re.compile(r"(\[[^\]]*\]\()([^)#\s]+)((?:#[^)]*)?\))")
_FORMULA = re.compile(r"\$([^$`]+)\$")
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b[^>]*?\bhref\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//[^"')\s]+""",
    re.IGNORECASE,
)
"""What a browser would fetch from elsewhere by itself, in HTML or CSS."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of the code."""
    for path, text in generated():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them; those to files of the repository that are no page become their names."""
    source = page.file.src_uri
    here = next((old for old, new in MOVED.items() if new == source), f"docs/{source}")
    if source.startswith("health/"):
        here = HEALTH + source.removeprefix("health/").replace("index.md", "README.md")

    def moved(link: re.Match[str]) -> str:
        start, target, end = link.groups()
        if ":" in target:
            return link[0]
        place = (ROOT / here).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        new = MOVED.get(place) or (
            place.replace(HEALTH, "health/").replace("health/README.md", "health/index.md").removeprefix("docs/")
        )
        if files.get_file_from_path(new) is None and (ROOT / place).exists():
            return f"{start[1:-2]} (`{place}`)" if start[1:-2].strip("`") != place else f"`{place}`"
        return start + "../" * source.count("/") + new + end

    def kept(formula: re.Match[str]) -> str:
        page.meta.setdefault("formulas", []).append(to_mathml(" ".join(formula[1].split())))
        return f"formula{len(page.meta['formulas']) - 1}here"

    markdown = _outside_code(markdown, lambda text: _LINK.sub(moved, text))
    return _outside_code(markdown, lambda text: _FORMULA.sub(kept, text)) if source.startswith("lab/") else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    return re.sub(r"formula(\d+)here", lambda found: page.meta["formulas"][int(found[1])], html)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site whose pages would load something over a network."""
    found = list(loaded(Path(config.site_dir)))
    if found:
        raise PluginError("the site would load from a network: " + "; ".join(found[:5]))


def loaded(folder: Path) -> Iterator[str]:
    """What the pages and styles in a folder would load from elsewhere: file, and the place in it."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".html", ".css", ".svg"):
            for match in _LOADED.finditer(file.read_text("utf-8")):
                yield f"{file.relative_to(folder)}: {match[0][:120]}"


def generated() -> Iterator[tuple[str, str]]:
    """Path and text of each page that is not in docs/."""
    for old, new in MOVED.items():
        yield new, (ROOT / old).read_text("utf-8")
    for file in PAGES.glob("*.md"):
        yield f"health/{file.name.replace('README', 'index')}", file.read_text("utf-8")
    yield "settings.md", _settings()
    yield "metrics.md", _metrics()
    yield "presets.md", _presets()
    for module in MODULES:
        yield f"reference/{module.rpartition('.')[2]}.md", _reference(module)


def _outside_code(markdown: str, change: Any) -> str:
    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def _settings() -> str:
    lines = ["# Settings", "", "What `proximo explain NAME` says of each, under its name in `config.toml`.", ""]
    for name, setting in settings().items():
        lines += [f"## `{name}` {{#{name}}}", "", *(f"{_plain(text)}\n" for text in texts_of(setting.places))]
        lines += _bullets(facts_of_setting(setting))
    return "\n".join(lines)


def _metrics() -> str:
    lines = ["# Metrics", "", "What a run writes to `metrics.jsonl` in each iteration.", ""]
    families = {f"{start}NAME": text for start, text in FAMILIES.items()}
    for name, text in {**TEXTS, **OTHERS, **families}.items():
        said = _plain(f"{text.label} ({text.unit}). {text.sentence}")
        lines += [f"## `{name}` {{#{name}}}", "", said[0].upper() + said[1:], ""]
        lines += _bullets(facts_of_metric(name, text))
    return "\n".join(lines)


def _bullets(facts: Mapping[str, list[str]]) -> Iterator[str]:
    for label, texts in facts.items():
        code = label in ("formula", "type")
        shown = [f"`{text}`" if code and not text.startswith("(") else _plain(text) for text in texts]
        yield f"* **{label}** " + (shown[0] if len(shown) == 1 else "".join(f"\n    * {text}" for text in shown))
    yield ""


def _plain(text: str) -> str:
    """Text in which code stays code, findings are links, and nothing else is taken for markup."""
    parts = re.split(r"(`[^`]*`)", text)
    escaped = (part if i % 2 else re.sub(r"([\\*_<>\[\]|#])", r"\\\1", part) for i, part in enumerate(parts))
    return re.sub(r"\b([PE]\d{3}) ([a-z-]+)", _to_finding, "".join(escaped))


def _to_finding(found: re.Match[str]) -> str:
    return f"[{found[0]}](health/{found[1]}-{found[2]}.md)" if found[1] in CODES else found[0]


def _presets() -> str:
    lines = ["# Presets", "", "The files as they are shipped. What they do not name stays at its default.", ""]
    files = dict.fromkeys(preset.file for preset in control.presets())
    folder = Path(control.__file__).parent / "presets"
    for file in (*(folder / name for name in files), *(preset.file for preset in language.presets())):
        verb = "train" if file.parent == folder else "rlhf all"
        lines += [f"## {file.stem.replace('_', ' ')}", "", f"Of `proximo {verb}`.", ""]
        lines += ["```toml", file.read_text("utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def _reference(module: str) -> str:
    public = (f"{module}.{name}" for name in import_module(module).__all__ if name != "__version__")
    lines = [f"# {module}", "", f"::: {module}", "    options: { members: false, show_root_heading: false }", ""]
    return "\n".join([*lines, *(f"::: {name}\n" for name in public if name not in MODULES)])
