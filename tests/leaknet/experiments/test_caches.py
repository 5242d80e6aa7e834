"""Which cache a row gets, what is encoded for it, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheError
from leakcache.store.build import build_cache
from leaknet.config import preset
from leaknet.experiments.ablation_run import CachePool
from leaknet.experiments.ablation_spec import CacheRequirement
from tests.leaknet.experiments.ablation_tables import cache_of
from tests.leaknet.experiments.synthetic import closed_cache
from tests.tiny_data import SMALL, save, tiny_model, write_images


def test_rows_take_the_cache_that_is_as_they_wish(tmp_path: Path) -> None:
    main = cache_of(tmp_path / "main", "taesd", "a")
    xl = cache_of(tmp_path / "xl", "taesd_xl", "b")
    rough = cache_of(tmp_path / "rough", "taesd", "a", "bf16")
    rough_xl = cache_of(tmp_path / "rough-xl", "taesd_xl", "b", "bf16")
    pool = CachePool(main, [rough_xl, rough, xl])
    assert pool.find(CacheRequirement()) is main
    assert pool.find(CacheRequirement(precision="fp32")) is main
    assert pool.find(CacheRequirement(precision="bf16")) is rough
    assert pool.find(CacheRequirement(autoencoder=("sdxl", "taesd_xl"))) is xl
    assert pool.find(CacheRequirement(("taesd_xl",), precision="bf16")) is rough_xl
    for absent in (
        CacheRequirement(stored="float32"),
        CacheRequirement(size=512),
        CacheRequirement(view="crop"),
    ):
        with pytest.raises(CacheError, match="needs a cache of the same images"):
            pool.find(absent)


def test_an_absent_cache_is_told_with_the_command_that_builds_it(tmp_path: Path) -> None:
    pool = CachePool(cache_of(tmp_path / "main", "taesd", "a", "bf16"))
    with pytest.raises(CacheError) as caught:
        pool.find(CacheRequirement(("sdxl", "taesdxl"), view="crop", size=512))
    assert str(caught.value) == (
        "needs a cache of the same images with autoencoder sdxl or taesdxl, view crop, size 512: "
        "run `leak cache build --data images --vae sdxl --view crop --size 512 --precision bf16 "
        "--cache DIR` and add --also DIR"
    )


def test_a_cache_of_other_images_is_not_taken(tmp_path: Path) -> None:
    pool = CachePool(
        cache_of(tmp_path / "main", "taesd", "a"),
        [closed_cache(tmp_path / "fewer" / "closed", ("ada", "bob"))],
    )
    with pytest.raises(CacheError, match="fewer/closed holds other images"):
        pool.find(CacheRequirement(autoencoder=("tiny",)))


def test_only_new_open_images_are_encoded_and_they_are_counted(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "vae")
    write_images(tmp_path / "known", ("ada", "bob"), 10)
    write_images(tmp_path / "unknown", ("eve",), 5, first=500)
    encoder = Encoder.load(str(tmp_path / "vae"))
    index = read_index(tmp_path / "known")
    closed = build_cache(
        index,
        encoder,
        tmp_path / "c" / "closed",
        preprocessing=SMALL,
        columns=preset("best").columns(training=True),
    ).cache
    for encoded in (5, 0):
        pool = CachePool(closed, open_roots=[tmp_path / "unknown"])
        task = pool.task(closed, preset("paper"))
        assert pool.task(closed, preset("paper")) is task
        assert [len(split) for split in task.unknown] == [5]
        assert pool.encoded == encoded
    with_statistics = pool.task(closed, preset("best"))
    for split in (*with_statistics.folds, *with_statistics.unknown):
        assert "pixel_statistics" in split
    degraded = ["degraded_pixel_statistics" in split for split in with_statistics.folds]
    assert degraded == [True, False, False]
