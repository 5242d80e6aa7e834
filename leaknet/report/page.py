"""The report page: one self-contained HTML file about one run, or several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from leakcache.errors import RunError
from leakcache.names import visible
from leaknet.files import write_text
from leaknet.report import metric_labels as labels
from leaknet.report.html import number
from leaknet.report.metric_labels import BY_KEY, CLOSED, OPEN, Figure, Measure
from leaknet.report.related import Related, find_related
from leaknet.report.run_data import ALPHA, ScoredRun
from leaknet.report.sections.branches import branches
from leaknet.report.sections.caveats import caveats
from leaknet.report.sections.closed_set import closed_set
from leaknet.report.sections.comparison import comparison
from leaknet.report.sections.families import families
from leaknet.report.sections.leak import leak
from leaknet.report.sections.open_set import open_set
from leaknet.report.sections.pca_map import pca_map
from leaknet.report.sections.provenance import provenance
from leaknet.report.sections.summary import summary
from leaknet.report.sections.training import training
from leaknet.training.run_folder import RunFolder

COMPARISON = "comparison.html"
HEAT_LEVELS = 10


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Attributes:
        key: its anchor, and the name of its template.
        nav: heading in a word or two, for the table of contents.
        title: its heading.
        content: values for its template.
        template: its name, where that is not `key`.
    """

    key: str
    nav: str
    title: str
    content: dict[str, Any]
    template: str = ""


def write_page(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of a scored run, or of several side by side; equal runs give equal bytes.

    Args:
        runs: folders of one run or more.
        out: the file; by default `report.html` in the run, or `comparison.html` beside the first.

    Returns:
        The file written.

    Raises:
        RunError: a run has not been scored or is damaged, or the file cannot be written.
    """
    first = runs[0]
    page = out or (RunFolder(first).report if len(runs) == 1 else first.parent / COMPARISON)
    read = [ScoredRun.read(run) for run in runs]
    content = render(read[0]) if len(read) == 1 else render_comparison(read)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{page.parent} cannot be made a folder: {error.strerror}") from error
    write_text(page, content)
    return page


def render(run: ScoredRun) -> str:
    """The page of one run as text."""
    return page_text(
        "run.html",
        run.name,
        _sections(run, find_related(run)),
        version=run.versions.get("leaknet", ""),
        run=run,
        summary=summary(run),
    )


def _sections(run: ScoredRun, related: Related) -> list[Section]:
    sections = [
        Section("closed", "Known", "Known generators: which one?", closed_set(run)),
        Section("open", "Unknown", "Unknown generators: are they detected?", open_set(run)),
        Section("reading", "Reading", "How to read these figures", caveats(run, related)),
        Section("branches", "Evidence", "What the run reads", branches(run)),
        Section("training", "Training", "Training", training(run)),
        Section("map", "Map", "Map of the embeddings", pca_map(run)),
    ]
    if (tree := families(run)) is not None:
        sections.insert(1, Section("families", "Families", "Families of related generators", tree))
    if (maps := leak(run)) is not None:
        sections.insert(-2, Section("leak", "Leak", "What the leak looks like", maps))
    if related.tables:
        tables = {"tables": related.tables}
        sections.append(Section("related", "More results", "More results on this data", tables))
    sections.append(Section("provenance", "Provenance", "Provenance", provenance(run)))
    return sections


def render_comparison(runs: Sequence[ScoredRun]) -> str:
    """The page of several runs as text."""
    content = comparison(runs)
    sections = [
        Section("side", "Metrics", "Metrics", content),
        Section("generators", "Generators", "Each generator", content),
        Section("settings", "Settings", "Settings that differ", content),
    ]
    return page_text(
        "compare.html",
        ", ".join(content["labels"]),
        sections,
        version=runs[0].versions.get("leaknet", ""),
        runs=runs,
        it=content,
    )


def page_text(template: str, title: str, sections: Sequence[Section], **values: Any) -> str:
    """A page as text.

    Args:
        template: file in templates/ that extends base.html.
        title: of the window.
        sections: in order.
        values: `version` of leaknet and `command` that writes the page, where they are not those
            that run now and `leak report`; what else the template reads.
    """
    values = {"version": version("leaknet"), **values}
    return _environment().get_template(template).render(title=title, sections=sections, **values)


class PageTemplate(Template):
    """A template whose pages have no invisible or control characters, which names may hold."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """The page as text."""
        return "\n".join(map(visible, super().render(*args, **kwargs).split("\n")))


def _environment() -> Environment:
    """Templates of all pages, with their functions."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates"), encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.template_class = PageTemplate
    functions = (
        labels.against_chance,
        labels.counted,
        labels.enumerate_words,
        labels.interval_text,
        labels.interval_words,
        labels.percent,
        labels.plain,
        labels.whole_percent,
        number,
        visible,
    )
    environment.globals.update({function.__name__: function for function in functions})
    environment.globals.update(
        alpha=ALPHA,
        all_measures=(*CLOSED, *OPEN),
        command="leak report",
        figure_of=Figure,
        heat=heat,
        measures=BY_KEY,
        missing=labels.MISSING,
        no_spread=labels.NO_SPREAD,
        weight_measure=Measure("weight", "Weight", "Mean attention weight."),
    )
    return environment


def heat(fraction: float | None) -> str:
    """The class that colours a cell by a fraction from 0 to 1."""
    if fraction is None:
        return ""
    return f"heat h{round(HEAT_LEVELS * min(1.0, max(0.0, fraction)))}"
