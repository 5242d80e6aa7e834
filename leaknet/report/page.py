"""HTML pages from templates, printed to PDF and PNG by Chromium or Chrome, and small PNG images."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image, ImageChops

from leakcache.errors import LeakError, RunError
from leakcache.names import visible
from leaknet.files import write_text
from leaknet.report import metric_labels as labels
from leaknet.report.metric_labels import BY_KEY, CLOSED, OPEN, Figure, Measure
from leaknet.report.run_data import ALPHA
from leaknet.report.svg import number

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


THUMBNAIL = 128
SIDE = 320
"""Longest side of a map."""
POSITIVE, NEGATIVE = (0, 114, 178), (213, 94, 0)
"""Blue and vermilion, which most colour-blind readers tell apart (Okabe and Ito)."""


@dataclass(frozen=True)
class PageImage:
    """An image of a page.

    Attributes:
        key: its name among the figures of a page.
        alt: text alternative.
        png: bytes of the file.
    """

    key: str
    alt: str
    png: bytes

    @property
    def source(self) -> str:
        """The file as a data URI."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


def png(image: Image.Image) -> bytes:
    """A PNG file's bytes."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> bytes:
    """The image with its longer side at most `side`."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return png(small)


def overlay(
    pixels: UInt8[np.ndarray, "height width 3"], values: Float[np.ndarray, "row column"]
) -> bytes:
    """A map over the grey image: blue for positive values, vermilion for negative ones."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    strength = np.abs(values) / max(float(np.abs(values).max()), 1e-12)
    colours = np.where(values[..., None] >= 0, POSITIVE, NEGATIVE).astype(np.float64)
    base = 60 + grey[..., None] * 0.7
    mixed = base + 0.65 * strength[..., None] * (colours - base)
    return thumbnail(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)), SIDE)


def enlarged(
    values: Float64[np.ndarray, "row column"], shape: tuple[int, int]
) -> Float64[np.ndarray, "height width"]:
    """A map of cells brought to the size of an image, each cell of one colour."""
    rows = np.arange(shape[0]) * values.shape[0] // shape[0]
    columns = np.arange(shape[1]) * values.shape[1] // shape[1]
    found: np.ndarray = values[rows[:, None], columns]
    return found


def pattern(values: Float64[np.ndarray, "row column plane"], scale: int = 12) -> bytes:
    """A pattern in grey or colour; 0 is mid-grey."""
    level = values / max(float(np.abs(values).max()), 1e-12)
    pixels = (127.5 + 127.5 * level).round().astype(np.uint8)
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    return png(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))


def signed_map(
    values: Float64[np.ndarray, "row column"], top: float | None = None, side: int = 264
) -> bytes:
    """A map on white: blue for positive values, vermilion for negative ones.

    Args:
        values: one for each cell.
        top: the magnitude of full colour; the largest one by default.
        side: height of the image in pixels, about.
    """
    most = float(np.abs(values).max()) if top is None else top
    strength = (np.abs(values) / max(most, 1e-12)).clip(0, 1)
    colours = np.where(values[..., None] >= 0, POSITIVE, NEGATIVE)
    pixels = (255 + strength[..., None] * (colours - 255)).round().astype(np.uint8)
    scale = max(1, side // len(values))
    return png(Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1)))


def beside(channels: Float64[np.ndarray, "channel row column"]) -> np.ndarray:
    """Channels side by side, with a column of zeros between them."""
    gap = np.zeros((channels.shape[1], 1))
    parts = [part for channel in channels for part in (channel, gap)]
    found: np.ndarray = np.concatenate(parts[:-1], axis=1)
    return found
