"""Headless Chromium or Chrome: a page as PDF, and the figures of a page as PNG."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageChops

from leakcache.errors import LeakError, RunError
from leaknet.files import write_text

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
