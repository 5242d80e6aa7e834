"""The documentation site builds, its links lead somewhere, and it loads nothing from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("zensical", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_without_broken_links(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "site.py"), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / "docs" / f"{page.stem}.html").is_file()
    reference = (tmp_path / "reference" / "leaknet.html").read_text(encoding="utf-8")
    assert 'id="leaknet.api.build_cache"' in reference
    assert "prompt group of each" in reference
    assert (tmp_path / "docs" / "notebooks" / "attribute.html").is_file()
