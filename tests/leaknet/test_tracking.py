"""Trackers: what a client was given is read back from its own files."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from leakcache.errors import ConfigError
from leaknet import tracking
from leaknet.tracking import open_tracker
from leaknet.training.history import EpochRecord

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [
    EpochRecord("latents", epoch, 1 / epoch, 0.5, 0.75, 0.5, True, None, (), 1.0, 10.0)
    for epoch in (1, 2)
]


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} not installed: the extra [tracking]")


def write(client: str, folder: Path) -> None:
    with open_tracker(client, folder) as tracker:
        assert tracker is not None
        tracker.config({"preset": "best", "train": {"seed": 0}})
        for record in RECORDS:
            tracker.epoch(record)
        tracker.metrics({"validation": {"top1": 0.5, "ece": math.nan, "confusion": [[1]]}})


@needs("tensorboard")
def test_tensorboard_keeps_epochs_metrics_and_settings(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("latents/loss")]
    assert losses == [(1, 1.0), (2, 0.5)]
    assert [event.value for event in found.Scalars("validation.top1")] == [0.5]
    names = found.Tags()["scalars"]
    assert "validation.ece" not in names
    assert "latents/temperature" not in names
    (text,) = found.Tensors("config/text_summary")
    assert b"| train.seed | 0 |" in text.tensor_proto.string_val[0]


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_epochs_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from pathlib import Path\n"
        "from tests.leaknet.test_tracking import write\n"
        f"write('trackio', Path({str(tmp_path / 'a-run')!r}))\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "print(SQLiteStorage.get_logs('leak', 'a-run'))\n"
    )
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "'latents/loss': 0.5" in done.stdout
    assert "'validation.top1': 0.5" in done.stdout


def test_no_tracker_is_opened_unless_asked(tmp_path: Path) -> None:
    with open_tracker(None, tmp_path) as tracker:
        assert tracker is None
    assert list(tmp_path.iterdir()) == []


def test_a_missing_client_is_wrong_usage_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking.PACKAGES, "mlflow", "no_such_client")
    with pytest.raises(ConfigError, match="not installed: pip install no_such_client"):
        write("mlflow", tmp_path)
    result: Any = CliRunner().invoke(cli.leak, ["train", "--log", "mlflow"])
    assert result.exit_code == 2
    assert "--log mlflow: not installed: pip install no_such_client" in result.output
