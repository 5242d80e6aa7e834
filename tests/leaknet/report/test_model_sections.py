"""Mean leaks before and after noise: planted ones are counted until the noise covers them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leaknet.config import LatentConfig
from leaknet.report.model_sections import CLEAN, leak, step_deviations
from leaknet.report.report import write_page
from leaknet.report.run_data import ScoredRun
from tests.leaknet.report.parsed import parse
from tests.leaknet.report.runs import Recipe, write_run
from tests.leaknet.report.test_atlas import NAMES, images
from tests.leaknet.tiny import tiny_cache

BRANCH = LatentConfig(timesteps=(0, 10, 999))


def test_noise_hides_a_planted_leak_only_where_it_is_strong() -> None:
    found = step_deviations(BRANCH, images())
    assert list(found) == [CLEAN, "t = 0", "t = 10", "t = 999"]
    bob = [own[NAMES.index("bob")].significant for own in found.values()]
    for significant in bob[:3]:
        assert significant[2, 0, 3]
        assert significant.sum() <= 3
    assert not bob[3].any()
    mean = found[CLEAN][NAMES.index("bob")].mean
    assert found["t = 10"][NAMES.index("bob")].mean == pytest.approx(mean, abs=0.05)


def test_without_noise_there_is_one_step() -> None:
    assert list(step_deviations(replace(BRANCH, noise=False, timesteps=(0,)), images())) == [CLEAN]


def test_the_report_draws_every_generator_and_step(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path / "cache" / "closed")
    run = write_run(tmp_path / "run", Recipe())
    assert leak(ScoredRun.read(run)) is None  # its cache is gone
    read = ScoredRun.read(run)
    assert read.record.cache is not None
    own = replace(read.record.cache, folder=str(cache.path))
    replace(read.record, cache=own).write(run)
    table = parse(write_page([run]).read_text("utf-8")).one("div", id="figure-leak")
    assert len(list(table.all("img"))) == len(cache.classes) * (1 + len(read.latents.timesteps))
