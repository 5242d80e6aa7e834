"""The Python API: light to import, and every example of docs/PYTHON.md runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import leaknet
from tests.leaknet.small_run import small_run
from tests.tiny_data import tiny_image, write_images

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "PYTHON.md").read_text(encoding="utf-8")


def test_importing_the_package_is_light_and_shows_its_names() -> None:
    program = "import sys, leaknet; print('torch' in sys.modules, *dir(leaknet))"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported, *names = said.stdout.split()
    assert imported == "False"
    assert {"load", "train", "build_cache", "LatentDataset", "LeakClassifier"} <= set(names)
    assert names == sorted(leaknet.__all__)
    for name in names:
        assert getattr(leaknet, name).__doc__, name


def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas", reason="to_frame needs pandas")
    (tmp_path / "runs").mkdir()
    small_run(tmp_path / "made").rename(tmp_path / "runs" / "best")
    tiny_image(7).save(tmp_path / "a.png")
    write_images(tmp_path / "photos", ("ada", "bob"), 8, first=20)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 9
    for block in blocks:
        exec(compile(block, "docs/PYTHON.md", "exec"), names)
    said = capsys.readouterr().out
    assert "no such file or folder" in said
    assert "nearest_mean" in said
    assert "('ada', 'bob')" in said
    assert "torch.Size([8, 1, 4, 32, 32])" in said
