"""A run folder stands alone and knows its cache."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leakcache.errors import ConfigError, RunError
from leaknet.checksums import forget_former
from leaknet.config import load_config
from leaknet.files import read_tensors, save_tensors
from leaknet.model.run_record import CacheIdentity, RunRecord
from leaknet.training.run_folder import EpochRecord, RunFolder, append_history, read_history
from leaknet.training.train import train
from tests.leaknet.tiny import SHAPE, fit_tiny, silent, tiny_cache, tiny_config, tiny_record

EPOCH = EpochRecord("latents", 1, 0.5, 0.6, 0.7, 0.8, True, 1.0, (0.25, 0.75), 2.0, 24.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    root = tmp_path_factory.mktemp("trained")
    cache = tiny_cache(root / "cache")
    train(tiny_config("train.epochs=1"), cache, root / "run", device="cpu", track=silent)
    return RunFolder(root / "run"), root


def test_a_finished_run_holds_its_files_and_no_others(trained: tuple[RunFolder, Path]) -> None:
    run, _ = trained
    assert sorted(path.name for path in run.path.glob("[!.]*")) == [
        "checksums.json",
        "classes.json",
        "config.toml",
        "history.jsonl",
        "model.safetensors",
    ]
    assert run.finished
    assert run.fingerprint() == hashlib.sha256(run.weights.read_bytes()).hexdigest()
    assert not run.load_model(torch.device("cpu")).training


def test_its_config_is_a_configuration_file(trained: tuple[RunFolder, Path]) -> None:
    run, _ = trained
    assert load_config(run.config) == tiny_config("train.epochs=1")


def test_its_own_cache_is_accepted_wherever_it_lies(
    trained: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    run, _ = trained
    run.check_cache(tiny_cache(tmp_path / "moved"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"weights": "b" * 64}, "autoencoder tiny"),
        ({"views": 2}, "preprocessing name resize against crop; preprocessing views 1 against 2"),
        ({"extra": 3}, "the training or validation images differ"),
    ],
)
def test_another_cache_is_refused_with_the_reason(
    trained: tuple[RunFolder, Path], tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    run, _ = trained
    with pytest.raises(RunError, match=reason) as caught:
        run.check_cache(tiny_cache(tmp_path / "other", **options))
    assert str(tmp_path / "other") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_cache_accepts_none(tmp_path: Path) -> None:
    fit_tiny(tmp_path / "run", "train.epochs=1")
    with pytest.raises(RunError, match="does not say which cache"):
        RunFolder(tmp_path / "run").check_cache(tiny_cache(tmp_path / "cache"))


def test_records_come_back_equal(tmp_path: Path) -> None:
    cache = CacheIdentity.of(tiny_cache(tmp_path / "cache"))
    odd = ('DALL·E "3"', "a\\b", "новый", "=")
    record = replace(tiny_record("train.seed=4", classes=odd), cache=cache)
    record.write(tmp_path)
    assert RunRecord.read(tmp_path) == record
    assert record.changes(RunRecord.read(tmp_path)) == []


def test_records_say_what_differs() -> None:
    one = tiny_record()
    other = RunRecord(tiny_config("train.seed=1"), ("x", "y"), (8, 4, 4))
    assert one.changes(other) == [
        "train.seed: 0, now 1",
        "classes: ada, bob, cyd, now x, y",
        f"latent shape: {SHAPE}, now (8, 4, 4)",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.toml", "[record"),
        ("config.toml", "preset = 'paper'"),
        ("config.toml", "[record]\nformat = 99\nlatent_shape = [4, 8, 8]"),
        ("config.toml", "[head]\nwidth = 3\n[record]\nformat = 5\nlatent_shape = [4, 8, 8]"),
        ("classes.json", "["),
        ("classes.json", '["one", "other"]'),
    ],
)
def test_records_that_were_tampered_with_are_refused(tmp_path: Path, name: str, text: str) -> None:
    tiny_record().write(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError) as caught:
        RunRecord.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder(tmp_path).record()
    with pytest.raises(RunError, match="cannot be read"):
        RunFolder(tmp_path).fingerprint()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "config.toml")


def test_a_history_that_was_changed_is_refused(tmp_path: Path) -> None:
    append_history(tmp_path, EPOCH)
    append_history(tmp_path, replace(EPOCH, epoch=2, temperature=None))
    path = tmp_path / "history.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(RunError, match=r"history\.jsonl is damaged or was changed"):
        read_history(tmp_path)
    path.write_bytes(whole)
    forget_former(tmp_path)
    path.write_bytes(whole.splitlines(keepends=True)[0])
    with pytest.raises(RunError, match=r"history\.jsonl is damaged or was changed"):
        read_history(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"history\.jsonl is missing"):
        read_history(tmp_path)
    (tmp_path / "checksums.json").unlink()
    path.write_bytes(b"{]\n" + whole)
    with pytest.raises(RunError, match="line 1 is damaged"):
        read_history(tmp_path)


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    tensors = {name: torch.randn(3, 2, 4, 4) for name in "dbca"}
    strided = {name: t.to(memory_format=torch.channels_last) for name, t in tensors.items()}
    metadata = {"epoch": 3, "a": 0.1, "b": [1, 2]}
    save_tensors(tmp_path / "one", tensors, metadata)
    save_tensors(
        tmp_path / "two", dict(reversed(strided.items())), dict(reversed(metadata.items()))
    )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    again, found = read_tensors(tmp_path / "two")
    assert found == metadata
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        save_tensors(tmp_path / "absent" / "file", {"a": torch.zeros(1)})
