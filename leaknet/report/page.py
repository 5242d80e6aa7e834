"""The report page: one self-contained HTML file about one run, or several runs side by side."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image, ImageChops

from leakcache.errors import LeakError, RunError
from leakcache.names import visible
from leaknet.files import write_text
from leaknet.report import metric_labels as labels
from leaknet.report.metric_labels import BY_KEY, CLOSED, OPEN, Figure, Measure
from leaknet.report.metric_sections import closed_set, families, open_set, summary
from leaknet.report.model_sections import branches, leak, pca_map, training
from leaknet.report.provenance import caveats, comparison, provenance
from leaknet.report.related import Related, find_related
from leaknet.report.run_data import ALPHA, ScoredRun
from leaknet.report.svg import number
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


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 120
"""That one start of the browser may take."""
WINDOW = (2000, 3000)
"""Pixels of the window that a figure is drawn in, in units of the page."""
MARGIN = 24
FIGURE = re.compile(r'id="figure-([\w-]+)"')
ALONE = """<style>:root {{ color-scheme: light; }} body {{ background: #fff; }}
body :not(:has(#figure-{0}), #figure-{0}, #figure-{0} *) {{ display: none; }}
.scroll {{ overflow: visible; }}</style></head>"""


def find_browser(option: str) -> str:
    """The program; `option` is what needs it.

    Raises:
        LeakError: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise LeakError(
            f"{option}: neither Chromium nor Chrome is on the PATH; install one, or leave "
            f"{option} out and print the page from another browser"
        )
    return found


def print_pdf(browser: str, page: Path) -> None:
    """Print a page to a PDF file beside it.

    Raises:
        LeakError: the browser fails.
    """
    pdf = page.with_suffix(".pdf").absolute()
    _run(browser, page, pdf, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")


def write_figures(browser: str, page: Path, folder: Path) -> list[Path]:
    """Write each figure of a page that has a name as `NAME.png`, in light colours.

    Raises:
        RunError: the folder cannot be written to.
        LeakError: the browser fails.
    """
    text = page.read_text("utf-8")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made a folder: {error.strerror}") from error
    files = []
    with TemporaryDirectory() as place:
        alone, shot = Path(place) / "figure.html", Path(place) / "figure.png"
        options = f"--window-size={WINDOW[0]},{WINDOW[1]}", "--force-device-scale-factor=2"
        for name in FIGURE.findall(text):
            write_text(alone, text.replace("</head>", ALONE.format(name), 1))
            _run(browser, alone, shot, *options, f"--screenshot={shot}")
            files.append(folder / f"{name}.png")
            files[-1].write_bytes(_cropped(shot.read_bytes()))
    return files


def _cropped(png: bytes) -> bytes:
    """Without the white around what is drawn, but for a margin."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    box = ImageChops.invert(image).getbbox() or (0, 0, *image.size)
    (left, top, right, bottom), (width, height) = box, image.size
    box = max(0, left - MARGIN), max(0, top - MARGIN), right + MARGIN, bottom + MARGIN
    data = io.BytesIO()
    image.crop((*box[:2], min(box[2], width), min(box[3], height))).save(data, "PNG", optimize=True)
    return data.getvalue()


def _run(browser: str, page: Path, out: Path, *options: str) -> None:
    common = ["--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    # Chromium refuses its sandbox to root; the page runs nothing but its own script.
    common += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with TemporaryDirectory() as profile:
        command = [browser, *common, f"--user-data-dir={profile}", *options]
        try:
            command.append(page.absolute().as_uri())
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise LeakError(f"{browser} did not write {out}: print {page} by hand") from error
    if not out.is_file():
        raise LeakError(f"{browser} did not write {out}: print {page} by hand")
