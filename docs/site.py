"""Build the documentation site: `python docs/site.py [OUT]`; needs the extra [docs].

Pages are the Markdown files of this repository and the notebooks; the Python reference is made of
docstrings. Fails where a link of a page leads nowhere or a page loads anything from elsewhere.
Pages can be read as files; search needs a server, which may be offline.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import tomli_w

ROOT = Path(__file__).resolve().parents[1]
NAV = {
    "Start": ["index.md", "docs/TUTORIAL.md", "docs/HOW.md", "docs/FAQ.md"],
    "Notebooks": ["docs/notebooks/*.md"],
    "Data": ["docs/DATA.md", "docs/AUDIT.md", "data/README.md"],
    "Evaluating": [
        "docs/EVALUATION.md",
        "docs/ABLATIONS.md",
        "docs/BASELINES.md",
        "docs/RESULTS.md",
        "docs/evaluation/*.md",
    ],
    "Reference": ["docs/CLI.md", "docs/PYTHON.md", "reference/*.md", "docs/GLOSSARY.md"],
    "Operating": [
        "docs/EXPORT.md",
        "docs/PERFORMANCE.md",
        "docs/SCALE.md",
        "docs/RELIABILITY.md",
        "SECURITY.md",
    ],
    "Project": [
        "CONTRIBUTING.md",
        "docs/CITING.md",
        "CHANGELOG.md",
        "docs/*.md",
        "*.md",
        "**/*.md",
    ],
}
"""Pages of each part; a page belongs to the first part that names it."""
REFERENCE = {
    "leaknet": ["leaknet.api", "leaknet.classifier", "leaknet.data.columns"],
    "answers": ["leaknet.scoring.answers", "leaknet.scoring.predict"],
    "explanations": ["leaknet.explain.explain"],
    "detectors": ["leaknet.detectors.base", "leaknet.data.embeddings"],
    "baselines": ["leaknet.baselines.base"],
    "export": ["leaknet.export.onnx_files", "leaknet.export.scorer", "leaknet.export.hub"],
    "columns": ["leakcache.store.column", "leakcache.encoder.autoencoder"],
    "errors": ["leakcache.errors"],
}
"""Modules of each page of the Python reference."""
ASSETS = (".png", ".svg")


def stage(site: Path) -> None:
    """Lay the pages out as in this repository; the README becomes the first page."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    for name in listed:
        path = Path(name)
        if path.suffix == ".md" and path.parts[0] != "tests":
            target = site / ("index.md" if name == "README.md" else name)
            text = (ROOT / path).read_text(encoding="utf-8")
            text = text.replace("](docs/notebooks)", "](docs/notebooks/attribute.md)")
            write(target, re.sub(r"\]\((\.\./)*README\.md", r"](\1index.md", text))
        elif path.name == "LICENSE" or (path.suffix in ASSETS and path.parts[0] == "docs"):
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target)
        elif path.suffix == ".ipynb":
            write((site / path).with_suffix(".md"), notebook_text(ROOT / path))
    for name, modules in REFERENCE.items():
        write(site / f"reference/{name}.md", reference_text(name, modules))


def write(path: Path, text: str) -> None:
    """Write a page, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def notebook_text(path: Path) -> str:
    """The cells of a notebook as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def reference_text(name: str, modules: list[str]) -> str:
    """A page that mkdocstrings fills."""
    return "\n\n".join([f"# Python: {name}", *(f"::: {module}" for module in modules)]) + "\n"


def configuration(site: Path, out: Path) -> dict[str, object]:
    """Settings of the site, without anything that is loaded from elsewhere."""
    left = {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    nav: list[dict[str, list[str]]] = []
    for part, patterns in NAV.items():
        pages: list[str] = []
        for pattern in patterns:
            own = sorted(p.relative_to(site).as_posix() for p in site.glob(pattern))
            pages += [page for page in own if page in left]
            left.difference_update(own)
        if pages:
            nav.append({part: pages})
    options = {
        "docstring_style": "google",
        "show_root_heading": True,
        "show_source": False,
        "members_order": "source",
        "filters": ["!^_"],
        "heading_level": 2,
    }
    palette = [
        {"media": f"(prefers-color-scheme: {name})", "scheme": scheme}
        for name, scheme in (("light", "default"), ("dark", "slate"))
    ]
    return {
        "project": {
            "site_name": "leak",
            "docs_dir": site.name,
            "site_dir": str(out),
            "use_directory_urls": False,
            "nav": nav,
            "theme": {"font": False, "palette": palette, "features": ["navigation.sections"]},
            "plugins": {
                "mkdocstrings": {"handlers": {"python": {"paths": [str(ROOT)], "options": options}}}
            },
        }
    }


class Page(HTMLParser):
    """Anchors and references of a page.

    Attributes:
        anchors: ids and names.
        links: targets of links and images.
        loaded: what the page loads by itself.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect the ids and references of an element."""
        found = {key: value for key, value in attributes if value}
        self.anchors.update(found[key] for key in ("id", "name") if key in found)
        for key in ("href", "src"):
            if key in found and tag in ("script", "img", "iframe", "link"):
                self.loaded.append(found[key])
            elif key in found:
                self.links.append(found[key])


def problems(out: Path) -> Iterator[str]:
    """Links that lead nowhere, and what is loaded from elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}
    for path, page in pages.items():
        where = path.relative_to(out)
        if where.name == "404.html":
            continue
        for target in [*page.links, *page.loaded]:
            address = urlsplit(target)
            if address.scheme or address.netloc:
                if target in page.loaded and address.scheme != "data":
                    yield f"{where}: loads {target}"
                continue
            file = path if not address.path else (path.parent / unquote(address.path)).resolve()
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                yield f"{where}: {target} leads nowhere"
            elif address.fragment and unquote(address.fragment) not in pages[file].anchors:
                yield f"{where}: {target} has no such anchor"


def build(out: Path) -> list[str]:
    """Build the site in a folder, and return what is wrong with it."""
    with TemporaryDirectory() as folder:
        site = Path(folder) / "pages"
        stage(site)
        settings = Path(folder) / "zensical.toml"
        made = Path(folder) / "site"
        settings.write_text(tomli_w.dumps(configuration(site, Path("site"))), encoding="utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "NO_COLOR": "1"})
        shutil.copytree(made, out, dirs_exist_ok=True)
    return sorted(problems(out))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    wrong = build(target.resolve())
    serve = f"{target / 'index.html'}; with search: python -m http.server -d {target}"
    print("\n".join(wrong) or serve)
    sys.exit(bool(wrong))
