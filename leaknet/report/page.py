"""The report page: one HTML file about one run, which needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from leakcache.errors import RunError
from leaknet.files import write_text
from leaknet.report.html import Html, Section, element, join
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.caveats import reading_section
from leaknet.report.sections.closed_set import closed_section
from leaknet.report.sections.open_set import open_section
from leaknet.report.sections.pca_map import map_section
from leaknet.report.sections.provenance import provenance_section
from leaknet.report.sections.summary import head
from leaknet.report.sections.training import attention_section, training_section

FILE = "report.html"
_STYLE = Path(__file__).with_name("style.css")


def write_page(run: Path, out: Path | None = None) -> Path:
    """Write the report of a scored run; equal runs give equal bytes.

    Args:
        run: its folder, the only thing that is read.
        out: the file; `report.html` in the run folder where none is given.

    Returns:
        The file written.

    Raises:
        RunError: the run has not been scored or is damaged, or the file cannot be written.
    """
    page = out or run / FILE
    content = render(ScoredRun.read(run))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{page.parent} cannot be made a folder: {error.strerror}") from error
    write_text(page, content)
    return page


def render(run: ScoredRun) -> str:
    """The page as text."""
    sections = [
        closed_section(run),
        open_section(run),
        reading_section(run),
        training_section(run),
        attention_section(run),
        map_section(run),
        provenance_section(run),
    ]
    body = element(
        "body",
        _contents(sections),
        element("main", head(run), [section.render() for section in sections]),
        _foot(run),
    )
    return "<!doctype html>\n" + element("html", _head(run), body, lang="en") + "\n"


def _head(run: ScoredRun) -> Html:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", f"{run.name} · leak report"),
        element("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )


def _contents(sections: list[Section]) -> Html:
    links = [element("a", "Answer", href="#summary")]
    links += [element("a", section.nav, href=f"#{section.key}") for section in sections]
    return element("nav", links, aria_label="Contents")


def _foot(run: ScoredRun) -> Html:
    version = run.versions.get("leaknet", "")
    text = join("Written by ", element("code", "leak report"), f", leaknet {version}".rstrip(), ".")
    return element("footer", element("p", text))
