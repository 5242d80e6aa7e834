"""From a folder of images to verdicts, as a user types it, with a tiny autoencoder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderTiny
from PIL import Image

from cli import leak
from leakcache.errors import LeakError

SMALL = ["latents.backbone=test_resnet", "head.dimension=8", "train.epochs=2", "latents.dct_size=4"]


def _image(path: Path, hue: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (72, 64, 3), dtype=np.uint8)
    pixels[..., hue] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for number in range(20):
        for hue, label in enumerate(("ada", "bob")):
            _image(
                root / "data" / "Closed_Set" / label / f"{number:02}.jpg", hue, 100 * hue + number
            )
        _image(root / "data" / "Open_Set" / "eve" / f"{number:02}.jpg", 2, 900 + number)
    (root / "data" / "Closed_Set" / "ada" / "broken.jpg").write_bytes(b"not an image")
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8)
    ).save_pretrained(root / "vae")
    (root / "leak.toml").write_text('vae = "vae"\n[cache.build]\nsize = 64\nmax_rejects = 5.0\n')
    return root


@pytest.fixture
def call(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from leaknet.commands.base import read_settings

    monkeypatch.chdir(project)

    def run(*words: str) -> Any:
        result = CliRunner().invoke(leak, [*words, "--json"], obj=read_settings())
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return json.loads(result.stdout)

    return run


def _set() -> list[str]:
    return [word for setting in SMALL for word in ("--set", setting)]


def test_the_three_commands_need_no_further_arguments(call: Any, project: Path) -> None:
    built = call("cache", "build", "--split", "closed")
    assert built["closed"]["images"] == 40
    assert [r["path"] for r in built["closed"]["rejects"]] == ["Closed_Set/ada/broken.jpg"]
    trained = call("train", *_set())
    assert trained["epochs"] == 4  # two of each branch
    assert Path(trained["run"]).parent == Path("runs")
    scored = call("score", "--kde")
    assert scored["run"] == trained["run"]
    for group, keys in (
        ("closed", ("top1", "macro_auc")),
        ("open", ("auroc", "eer", "fpr95", "ovl")),
    ):
        assert all(0 <= scored[group][key] <= 1 for key in keys)
    assert scored["open"]["eve"]["auroc"] == scored["open"]["auroc"]
    assert scored["images"]["open"] == 20


def test_a_file_scores_as_it_did_in_the_cache(call: Any, project: Path) -> None:
    call("cache", "build")
    run = call("train", *_set())["run"]
    call("score", "--kde")
    table = (Path(run) / "scores.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(table))
    row = next(one for one in rows if "/bob/" in one["path"] and one["fold"] == "test")
    image = call("score", f"data/Closed_Set/bob/{Path(row['path']).name}")["images"][0]
    assert image["generator"] == row["predicted"]
    assert image["scores"]["kde"] == pytest.approx(float(row["kde"]), rel=1e-3)


def test_one_bad_file_loses_nothing(call: Any, project: Path) -> None:
    call("cache", "build")
    call("train", *_set())
    call("score", "--kde")
    images = call("score", "data/Closed_Set/ada", "--csv", "out.csv")["images"]
    assert len(images) == 21
    assert [Path(i["path"]).name for i in images if i["reason"]] == ["broken.jpg"]
    assert len((project / "out.csv").read_text().splitlines()) == 22


def test_nothing_is_done_twice(call: Any) -> None:
    call("cache", "build")
    again = call("cache", "build")["closed"]
    assert again["computed"] == 0
    first = call("train", *_set())
    assert call("train", *_set())["resumed_after"] == first["epochs"]


def test_a_run_of_another_cache_is_refused(call: Any, project: Path) -> None:
    call("cache", "build")
    run = call("train", *_set())["run"]
    call("cache", "build", "--size", "128", "--cache", "caches/other")
    with pytest.raises(LeakError, match="preprocessing size 64 against 128"):
        call("score", "--run", run, "--cache", "caches/other")
