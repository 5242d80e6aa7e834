"""Trackers: what a client was given is read back from its own files."""

from __future__ import annotations

import importlib.util
import json
import math
import os
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
from leaknet.training.run_folder import EpochRecord

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
        areas = {"a model (v2) +é": 0.25}
        final = {"top1": 0.5, "ece": math.nan, "confusion": [[1]], "area": areas}
        tracker.metrics({"validation": final})


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


def run_alone(client: str, folder: Path, reading: str, **variables: str) -> str:
    """Output of `reading` after writing by a client, in a process of its own."""
    program = (
        "from pathlib import Path\n"
        "from tests.leaknet.test_tracking import write\n"
        f"write({client!r}, Path({str(folder / 'a-run')!r}))\n{reading}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs("trackio")
def test_trackio_keeps_epochs_and_metrics(tmp_path: Path) -> None:
    reading = (
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "print(SQLiteStorage.get_logs('leak', 'a-run'))\n"
    )
    found = run_alone("trackio", tmp_path, reading, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert "'latents/loss': 0.5" in found
    assert "'validation.top1': 0.5" in found


@needs("wandb")
def test_wandb_keeps_epochs_metrics_and_settings_offline(tmp_path: Path) -> None:
    reading = """
import json, os
from wandb.proto.wandb_internal_pb2 import Record

(file,) = Path(os.environ["WANDB_DIR"]).glob("wandb/offline-run-*/*.wandb")
data, at, part, records = file.read_bytes(), 7, b"", []
while at + 7 <= len(data):  # records of LevelDB's log, in blocks of 32 KiB
    length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    part += data[at + 7 : at + 7 + length]
    if kind in (1, 4):  # whole, or the last part
        records.append(Record.FromString(part))
        part = b""
    at += 7 + length
    at += -at % 32768 if -at % 32768 < 7 else 0
def values(items):
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
def of(kind):
    return [getattr(record, kind) for record in records if record.HasField(kind)]
print(json.dumps({
    "history": [values(one.item) for one in of("history")],
    "config": [values(one.update) for one in of("config")],
    "name": of("run")[0].display_name,
}))
"""
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    output = run_alone("wandb", tmp_path, reading, **offline)
    found = json.loads(output.splitlines()[-1])
    assert found["name"] == "a-run"
    assert {"preset": "best", "train.seed": 0}.items() <= found["config"][0].items()
    first, second, last = found["history"]
    assert (first["latents/loss"], second["latents/loss"], second["epoch"]) == (1.0, 0.5, 2)
    assert last["validation.top1"] == 0.5
    assert "validation.ece" not in last


@needs("mlflow")
def test_mlflow_keeps_epochs_metrics_and_settings(tmp_path: Path) -> None:
    reading = """
import json
from mlflow import MlflowClient

client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("leak").experiment_id])
losses = client.get_metric_history(run.info.run_id, "latents/loss")
print(json.dumps({
    "name": run.info.run_name,
    "status": run.info.status,
    "params": run.data.params,
    "metrics": run.data.metrics,
    "losses": [(one.step, one.value) for one in losses],
}))
"""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = json.loads(
        run_alone("mlflow", tmp_path, reading, MLFLOW_TRACKING_URI=store).splitlines()[-1]
    )
    assert (found["name"], found["status"]) == ("a-run", "FINISHED")
    assert found["params"] == {"preset": "best", "train.seed": "0"}
    assert found["losses"] == [[1, 1.0], [2, 0.5]]
    assert found["metrics"]["validation.top1"] == 0.5
    assert found["metrics"]["validation.area.a model _v2_ _é"] == 0.25
    assert "validation.ece" not in found["metrics"]


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
