"""Traces of generators: planted ones are found, absent ones are not, relatives are near."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cli
from leakcache.errors import ScoringError
from leakcache.statistics.pixel_families import HALF
from leakcache.statistics.pixel_features import LENGTH, family_slice
from leaknet.data.columns import ImageColumns
from leaknet.report.comparison_pages import causes_of, render
from leaknet.report.traces import autocorrelation, class_distances, make_atlas, whole_spectrum
from tests.leaknet.report.parsed import parse
from tests.leaknet.tiny import SHAPE, image_ids, tiny_cache

NAMES = ("ada", "bob", "cyd<b>")
PROMPTS = 30


def images(*, columns: bool = True, paired: bool = True) -> ImageColumns:
    """Images of three generators, one a prompt each, whose content is far larger than a trace.

    bob has a trace in one low frequency of channel 2 and in one frequency of the residual.
    """
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(PROMPTS, 1, *SHAPE, generator=generator) * 5
    z0, rest = [], []
    statistics = torch.randn(PROMPTS, 1, LENGTH, generator=generator) * 5
    for name in NAMES:
        noise = torch.randn(PROMPTS, 1, *SHAPE, generator=generator)
        z0.append(content + noise)
        rest.append(statistics + torch.randn(PROMPTS, 1, LENGTH, generator=generator))
        if name == "bob":
            wave = torch.cos(torch.pi * (torch.arange(16) + 0.5) * 3 / 16)
            z0[-1][:, 0, 2] += 2 * wave
            rest[-1][:, 0, family_slice("residual_spectrum").start + 8 * HALF + 16] += 3
    labels = np.repeat(NAMES, PROMPTS)
    groups = np.tile([f"p{i}" for i in range(PROMPTS)], len(NAMES))
    names = np.array([f"{label}/{i}" for i, label in enumerate(labels)])
    found = ImageColumns(
        labels,
        groups if paired else names,
        np.full(len(labels), "train"),
        image_ids(names),
        names,
        {"z0": torch.cat(z0)[:, 0][:, None], "pixel_statistics": torch.cat(rest)},
    )
    return found if columns else replace(found, columns={"z0": found.z0})


def test_planted_traces_are_found_and_nothing_else() -> None:
    atlas = make_atlas(images())
    assert atlas.generators == NAMES
    assert atlas.images == (PROMPTS,) * 3
    assert atlas.paired == 1.0
    assert atlas.low is not None
    assert atlas.spectrum is not None
    place = NAMES.index("bob")
    assert set(zip(*np.nonzero(atlas.low[place].significant), strict=True)) == {(2, 0, 3)}
    assert set(zip(*np.nonzero(atlas.spectrum[place].significant), strict=True)) == {(8, 16)}
    # bob's deviation from the mean of three generators is two thirds of its trace.
    assert atlas.spectrum[place].mean[8, 16] == pytest.approx(2, abs=0.5)
    for other in (0, 2):
        assert atlas.low[other].mean[2, 0, 3] < 0
        assert not atlas.low[other].kept[atlas.low[other].mean > 0].any()


def test_without_pairs_content_hides_the_trace() -> None:
    atlas = make_atlas(images(paired=False))
    assert atlas.paired == 0.0
    assert atlas.spectrum is not None
    assert not atlas.spectrum[1].significant.any()


def test_distances_are_zero_between_equals_and_small_between_relatives() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=LENGTH)
    targets, groups = np.repeat(np.arange(4), 20), np.zeros(80, dtype=np.int64)
    values = rng.normal(size=(80, LENGTH))
    values += np.array([0.0, 0.0, 1.0, 1.3])[targets, None] * direction
    found = class_distances(values, targets, groups)
    np.testing.assert_allclose(found, found.T)
    assert found[0, 1] < 0.1 * found[0, 2]
    assert 0 < found[2, 3] < 0.6 * found[0, 2]


def test_a_periodic_pattern_is_a_peak_of_the_autocorrelation() -> None:
    power = np.full((HALF, HALF), 1e-6)
    power[0, 8] = power[8, 0] = 1.0  # period 8
    found = autocorrelation(power)
    middle = len(found) // 2
    assert found[middle, middle] == pytest.approx(1)
    assert found[middle, middle + 8] > 0.9 > found[middle, middle + 4]
    whole = whole_spectrum(power)
    assert whole.shape == (64, 64)
    assert [whole[32, 32 + 8], whole[32, 32 - 8], whole[32 + 8, 32]] == [1.0, 1.0, 1.0]


def test_single_images_and_missing_columns_are_refused() -> None:
    few = images().take(np.array([0, 1, PROMPTS]))
    with pytest.raises(ScoringError, match="bob"):
        make_atlas(few)
    with pytest.raises(ScoringError, match="--for best"):
        make_atlas(replace(images(), columns={}))


def test_the_page_shows_what_was_found(tmp_path: Path) -> None:
    listed = [{"name": "bob", "schedule": "<i>", "prediction": "v", "sampler": "ddim", "steps": 8}]
    (tmp_path / "manifest.json").write_text(
        json.dumps({"generators": [one | {"zero_terminal_snr": True} for one in listed]})
    )
    page = parse(render(make_atlas(images()), "caches/x", causes_of(tmp_path)))
    rows = {row[0]: row[1:] for row in page.one("section", id="traces").one("table").rows()}
    assert list(rows) == list(NAMES)
    assert rows["bob"][2:4] == ["1 of 256", "1 of 1089"]
    assert rows["bob"][4:] == ["<i>", "v", "yes", "ddim", "8"]
    assert rows["ada"][4:] == ["–"] * 5
    assert all(node.attributes["alt"] for node in page.all("img"))
    tree = page.one("section", id="distances").one("svg")
    assert sorted(node.text for node in tree.all("text", class_="note")) == sorted(NAMES)
    assert len(list(tree.all("path", class_="branch"))) == 2


def test_data_without_stated_causes_have_none(tmp_path: Path) -> None:
    assert causes_of(tmp_path) == {}
    (tmp_path / "manifest.json").write_text('{"generators": [{"name": "bob"}]}')
    assert causes_of(tmp_path) == {}


def test_the_command_writes_a_page_of_latents_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_cache(tmp_path / "cache" / "closed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["leak", "atlas", "--cache", "cache", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["generators"] == {"ada": 32, "bob": 32, "cyd": 32}
    assert "spectrum" not in found
    page = parse(Path(found["atlas"]).read_text(encoding="utf-8"))
    assert [node.attributes["id"] for node in page.all("section")] == ["traces", "latents"]
