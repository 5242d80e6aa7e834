"""Headless Chromium, driven by Playwright; without one of them these tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from leaknet.report.page import BROWSERS
from leaknet.scoring.predict import Predictor
from tests.leaknet.small_run import small_run

SCHEMES = ("file", "data", "blob")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = {"desktop": 1280, "phone": 390}
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@dataclass
class Visit:
    """A page in the browser, and all that went wrong on it.

    Attributes:
        page: Playwright's page.
        problems: errors on the console or of scripts, and requests that left the machine.
    """

    page: Any
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Record what goes wrong from now on."""
        self.page.on("console", lambda m: m.type in ("error", "warning") and self._note(m.text))
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("request", lambda request: self._check(request.url))

    def check(self, name: str, screenshots: Path | None) -> None:
        """Fail unless the page fits the window and is accessible, in every width and colour scheme.

        Args:
            name: of the page, for messages and screenshots.
            screenshots: folder for screenshots; None for none.
        """
        from axe_playwright_python.sync_playwright import Axe

        for scheme in ("light", "dark"):
            for device, width in WIDTHS.items():
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.emulate_media(color_scheme=scheme)
                where = f"{name}, {device}, {scheme}"
                if screenshots:
                    screenshots.mkdir(parents=True, exist_ok=True)
                    file = screenshots / f"{name}-{device}-{scheme}.png"
                    self.page.screenshot(path=str(file), full_page=True)
                wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{where}: {wide} pixels wider than the window"
                options = {"resultTypes": ["violations"], "runOnly": list(RULES)}
                found = Axe().run(self.page, options=options).response["violations"]
                violations = [
                    f"{rule['id']}: {node['html']} {node['failureSummary']}"
                    for rule in found
                    for node in rule["nodes"]
                ]
                assert not violations, "\n".join([where, *violations])
        assert not self.problems, f"{name}: {self.problems}"

    def _check(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in SCHEMES and address.hostname != "127.0.0.1":
            self._note(f"request for {url}")

    def _note(self, text: str) -> None:
        self.problems.append(text)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser that downloads nothing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra browser is missing")
    pytest.importorskip("axe_playwright_python", reason="the extra browser is missing")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[[str], Visit]]:
    """Opens an address."""
    pages = []

    def open_page(address: str) -> Visit:
        pages.append(chromium.new_page(viewport={"width": 1280, "height": 900}))
        found = Visit(pages[-1])
        found.watch()
        pages[-1].goto(address)
        return found

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path | None:
    """Folder that `--screenshots` names."""
    folder = request.config.getoption("--screenshots")
    return Path(folder) if folder else None


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A small run of native pixel statistics."""
    cheap = ("latents.enabled=false", "statistics.activations=false", "statistics.degraded=false")
    return Predictor(
        small_run(tmp_path_factory.mktemp("browser"), 10, "best", *cheap), device="cpu"
    )
