"""Progress: plain lines where there is no terminal, a bar where there is one, never stdout."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest

from leakcache import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_at_once_seldom_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 101.0, 111.0, 112.0, 120.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.track("encoding", 40, "images") as advance:
        for _ in range(4):
            advance(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "encoding 0/40 images",
        "encoding 20/40 images 1.8/s, 11 s left",
        "encoding 40/40 images 2.0/s, 0 s left",
    ]


def test_nothing_to_do_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("checking", 0, "images"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_rate_and_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.track("encoding", 40, "images") as advance:
        advance(40)
    assert capsys.readouterr().out == ""
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "encoding" in shown
    assert "40/40" in shown
