"""The docs say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_reference_is_what_the_commands_say(tmp_path: Path) -> None:
    # In an interpreter of its own: click keeps the help option of whoever called a command first.
    script = [sys.executable, "docs/cli_reference.py", str(tmp_path / "CLI.md")]
    subprocess.run(script, cwd=ROOT, check=True)
    written = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8")
    reference = (tmp_path / "CLI.md").read_text(encoding="utf-8")
    assert written == reference, "run `python docs/cli_reference.py`"


def test_every_command_has_an_example() -> None:
    sections = (ROOT / "docs" / "CLI.md").read_text(encoding="utf-8").split("\n## ")[1:]
    commands = [text for text in sections if "\nCommands:" not in text]
    assert len(commands) >= 10
    for text in commands:
        assert "Example:" in text, text.splitlines()[0]


@pytest.mark.parametrize(
    "command", ["pip install -e . && leak demo", 'pip install -e ".[test]" && pytest']
)
def test_ci_runs_the_two_commands_of_the_readme(command: str) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert command in README
    assert f"== {command}" in script


def test_links_in_the_docs_lead_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted(ROOT.glob("data/*.md")),
    ]
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
