"""Runs pushed to a folder and to a hub on this machine, fetched, checked and scored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from leakcache.errors import RunError
from leaknet.export import hub as hub_runs
from leaknet.export.hub import FILES, NEEDED, fetch_run, local_run, model_card, push_run
from leaknet.scoring.predict import Predictor
from tests.leaknet.export.loopback_hub import LoopbackHub, loopback_hub
from tests.leaknet.small_run import small_run

ID = "me/leak-small"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("made"), 10)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # set for all other tests
    with loopback_hub() as found:
        yield found


def test_a_run_in_a_folder_scores_as_it_did(run: Path, tmp_path: Path) -> None:
    place, names = push_run(run, str(tmp_path / "copy"))
    assert set(NEEDED) < set(names) < set(FILES)
    images = sorted((run.parent / "images" / "ada").iterdir())[:3]
    here, there = (Predictor(one, device="cpu").score(images) for one in (run, place))
    assert there.as_dict() | {"run": ""} == here.as_dict() | {"run": ""}


def test_a_run_goes_to_the_hub_and_comes_back(run: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    url, names = push_run(run, ID, endpoint=hub.url)
    assert url == f"{hub.url}/{ID}"
    assert sorted(hub.repositories[ID]) == sorted(names)
    found = fetch_run(ID, endpoint=hub.url, cache_dir=tmp_path)
    assert {name: (found / name).read_bytes() for name in names} == hub.repositories[ID]
    images = sorted((run.parent / "images" / "bob").iterdir())[:3]
    here, there = (Predictor(one, device="cpu").score(images) for one in (run, found))
    assert there.as_dict() | {"run": ""} == here.as_dict() | {"run": ""}


def test_the_card_of_the_user_is_kept(run: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    (own / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    push_run(own, ID, endpoint=hub.url)
    assert hub.repositories[ID]["README.md"] == b"---\nlicense: mit\n---\nmine\n"


@pytest.mark.parametrize("name", ["model.safetensors", "embeddings.h5", "classes.json"])
def test_a_changed_file_of_the_hub_is_refused(
    run: Path, hub: LoopbackHub, tmp_path: Path, name: str
) -> None:
    push_run(run, ID, endpoint=hub.url)
    data = bytearray(hub.repositories[ID][name])
    data[len(data) // 2] ^= 1
    hub.repositories[ID][name] = bytes(data)
    with pytest.raises(RunError, match=rf"{name} is damaged or was changed"):
        fetch_run(ID, endpoint=hub.url, cache_dir=tmp_path)


def test_a_repository_without_checksums_is_refused(
    run: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    push_run(run, ID, endpoint=hub.url)
    del hub.repositories[ID]["checksums.json"]
    with pytest.raises(RunError, match=r"is no run of leak: the repository has no checksums"):
        fetch_run(ID, endpoint=hub.url, cache_dir=tmp_path)


def test_a_hub_without_the_run_says_so_in_one_line(hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^me/none is no run folder here, and the hub says") as told:
        fetch_run("me/none", endpoint=hub.url, cache_dir=tmp_path)
    assert "\n" not in str(told.value)


def test_offline_is_said_at_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_runs, "answers", lambda endpoint: False)
    with pytest.raises(RunError, match=r"the hub cannot be reached; train a run, or download"):
        fetch_run(ID, endpoint="http://hub.invalid", cache_dir=tmp_path)
    with pytest.raises(RunError, match=r"cannot be reached; name a folder"):
        push_run(run, ID, endpoint="http://hub.invalid")


@pytest.mark.parametrize("name", ["./none", "runs/none", "none", "a/b/c", "/none/here"])
def test_a_path_is_no_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert local_run(name) == Path(name)


def test_a_damaged_run_is_not_pushed(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    with (own / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match="is damaged or was changed"):
        push_run(own, str(tmp_path / "copy"))


def test_the_card_states_data_controls_figures_and_limits(run: Path) -> None:
    card = model_card(run)
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert "library_name: leaknet" in head
    assert not any(line.startswith("license") for line in head.splitlines())
    sections = [line.removeprefix("## ") for line in body.splitlines() if line.startswith("## ")]
    assert sections == ["Data", "Leak controls", "Figures", "Intended use", "Limits", "Licence"]
    assert "`ada`, `bob`" in body
    assert "validation fold" in body
    assert "| Top-1 |" in body
    assert "(seed 0)" in body
    assert "No audit of this data was found" in body
