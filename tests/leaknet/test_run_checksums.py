"""A flipped bit in any file of a run is refused in one line that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from leakcache.errors import RunError
from leaknet.calibration import load_calibration
from leaknet.checksums import CHECKED, CHECKSUMS, read_text, verify
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import GlobalKDE
from leaknet.files import replace_file, write_text
from leaknet.model.run_record import FORMAT
from leaknet.scoring.run_embeddings import load_scorers
from leaknet.scoring.score_run import prepare_run
from leaknet.training.run_folder import RunFolder
from leaknet.training.train import train
from tests.leaknet.tiny import silent, tiny_cache, tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checked")
    cache = tiny_cache(root / "cache")
    train(tiny_config("train.epochs=1"), cache, root / "run", device="cpu", track=silent)
    prepare_run(root / "run", cache)
    return root / "run"


LATER = (
    "last.safetensors",
    "relations.safetensors",
    "unknown.h5",
    "scores.csv",
    "enrolment.json",
    "range.json",
    "held_out.safetensors",
)
TRAINED = [name for name in CHECKED if name not in LATER]
"""Files of a run that is trained and not scored, on a cache whose images are gone."""


def read_everything(folder: Path) -> None:
    run = RunFolder(folder)
    run.epochs()
    read_text(run.metrics)
    run.load_model(torch.device("cpu"))
    known = Embeddings.load(run.embeddings)
    detectors = load_scorers(folder, [GlobalKDE], known, run.fingerprint())
    load_calibration(folder, detectors, known, run.fingerprint())


def test_an_unchanged_run_is_read(finished: Path, tmp_path: Path) -> None:
    assert all((finished / name).is_file() for name in TRAINED)
    read_everything(shutil.copytree(finished, tmp_path / "copy"))


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_refused(finished: Path, tmp_path: Path, name: str, where: float) -> None:
    path = shutil.copytree(finished, tmp_path / "run") / name
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_everything(tmp_path / "run")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_checksums_are_refused(finished: Path, tmp_path: Path) -> None:
    path = shutil.copytree(finished, tmp_path / "run") / CHECKSUMS
    path.write_text(path.read_text()[:-9])
    with pytest.raises(RunError, match=r"checksums\.json is damaged"):
        read_everything(tmp_path / "run")


def test_a_kill_between_checksum_and_file_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write_text(path, "old")

    def killed(partial: Path) -> None:
        partial.write_text("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, killed)
    verify(path)
    write_text(path, "new")
    verify(path)
    path.write_text("old")  # as before a rename that a kill prevented
    verify(path)
    path.write_text("other")
    with pytest.raises(RunError, match=r"config\.toml is damaged or was changed"):
        verify(path)


def test_a_run_of_an_older_format_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    text = (folder / "config.toml").read_text()
    write_text(folder / "config.toml", text.replace(f"format = {FORMAT}", "format = 1"))
    with pytest.raises(RunError, match=f"run format 1, not {FORMAT}: `leak train` again") as caught:
        RunFolder(folder).record()
    assert "\n" not in str(caught.value)
