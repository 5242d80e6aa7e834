"""The page in a real browser: tables sort, nothing is wider than the window, no script fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from leaknet.report.page import write_page
from tests.leaknet.report.runs import Recipe, write_run

CHROMIUM = shutil.which("chromium")
PROBE = """<script>
const table = document.querySelector("#closed table.compact");
const heading = table.tHead.rows[0].cells[2];
const values = () => [...table.tBodies[0].rows].map((row) => row.cells[2].dataset.sort);
heading.querySelector("button").click();
const falling = values();
heading.querySelector("button").click();
const wide = document.documentElement.scrollWidth > innerWidth;
document.title = [falling, heading.ariaSort, values(), wide, errors.length].join(" ");
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [500, 1200])
def test_tables_sort_and_the_page_fits(tmp_path: Path, width: int) -> None:
    page = write_page([write_run(tmp_path / "run", Recipe(unknown=()))])
    text = page.read_text(encoding="utf-8").replace("</body>", PROBE)
    errors = "<head><script>const errors = []; onerror = (e) => errors.push(e);</script>"
    page.write_text(text.replace("<head>", errors), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},800", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None
    falling, order, rising, wide, failed = title[1].split()
    areas = [float(text) for text in falling.split(",")]
    assert areas == sorted(areas, reverse=True)
    assert [float(text) for text in rising.split(",")] == areas[::-1]
    assert (order, wide, failed) == ("ascending", "false", "0")
