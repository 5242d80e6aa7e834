"""Building: what is cached, what is left out, and what a second build does again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from tiny_data import SIDE, SMALL, array_bytes, save, tiny_image, tiny_model, write_images

from leakcache.dataset.index import FOLDS, DatasetIndex, read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheError, CacheStale, DataError
from leakcache.files import locked
from leakcache.images.decode import Preprocessing, decode, preprocess, to_unit_range
from leakcache.store.build import BuildReport, build_cache
from leakcache.store.cache import Cache
from leakcache.store.column import BATCH, View, ViewValues, _batches, _Request
from leakcache.store.one_pass import images_ahead
from leakcache.store.zarr_column import ColumnSpec


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ColumnSpec, "per_shard", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "all"


def build(root: Path, encoder: Encoder, folder: Path, **options: Any) -> BuildReport:
    given = {"split": "all", "preprocessing": SMALL, **options}
    return build_cache(read_index(root), encoder, folder, **given)


def direct(encoder: Encoder, path: Path, preprocessing: Preprocessing = SMALL) -> np.ndarray:
    views = preprocess(decode(path.read_bytes()), preprocessing)
    return encoder.encode(torch.from_numpy(to_unit_range(views))).numpy()


def reasons(cache: Cache) -> dict[str, str]:
    return dict(cache.manifest.rejects)


def shard_files(folder: Path) -> list[Path]:
    """Of z0, in order."""
    (array,) = (folder.parent / "store" / "columns").glob("z0-*/values.zarr/c")
    return sorted(path for path in array.rglob("*") if path.is_file())


# What is cached


def test_holds_what_encoding_each_image_gives(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    index = read_index(image_folder)
    report = build(image_folder, encoder, folder)
    cache = report.cache
    assert (report.computed, report.stored, report.columns) == (12, 0, {"z0": 12})
    assert len(cache) == 12
    assert cache.manifest.latent_shape == (1, 4, SIDE // 8, SIDE // 8)
    assert cache.paths.tolist() == [record.path for record in index.records]
    assert cache.labels.tolist() == [record.label for record in index.records]
    assert cache.groups.tolist() == [record.group for record in index.records]
    assert cache.folds.tolist() == [record.fold for record in index.records]
    rows = np.arange(12)[::-1]  # across shards and not in their order
    expected = np.stack([direct(encoder, image_folder / cache.paths[row]) for row in rows])
    assert cache.column("z0", rows).dtype == np.float16
    np.testing.assert_allclose(cache.column("z0", rows), expected, rtol=2e-3, atol=1e-3)
    coefficients = scipy.fft.dctn(
        cache.column("z0", rows).astype(float), axes=(-2, -1), norm="ortho"
    )
    np.testing.assert_allclose(cache.column("dct_low", rows), coefficients, rtol=2e-3, atol=2e-3)
    sizes = [(image_folder / path).stat().st_size for path in cache.paths]
    assert cache.sizes.tolist() == sizes


def test_rows_are_in_canonical_order_and_folds_are_found(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    cache = build(image_folder, encoder, folder).cache
    columns = zip(cache.folds, cache.labels, cache.paths, strict=True)
    key = [(FOLDS.index(fold), label, path) for fold, label, path in columns]
    assert key == sorted(key)
    found = np.concatenate([cache.rows(fold) for fold in FOLDS])
    assert found.tolist() == list(range(12))
    assert len(cache.rows("train")) == 6


def test_moments_are_those_of_the_stored_latents(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    cache = build(image_folder, encoder, folder).cache
    for fold, labels in (("train", None), ("test", ("bob",))):
        rows = cache.rows(fold)
        rows = rows[np.isin(cache.labels[rows], labels)] if labels else rows
        moments = cache.moments(fold, labels)
        z0 = cache.column("z0", rows).astype(np.float64)
        assert moments.latent.count == len(rows) * (SIDE // 8) ** 2
        np.testing.assert_allclose(moments.latent.mean, z0.mean((0, 1, 3, 4)), rtol=1e-9)
        np.testing.assert_allclose(moments.latent.variance, z0.var((0, 1, 3, 4)), rtol=1e-9)
        dct = cache.column("dct_low", rows).astype(np.float64)
        np.testing.assert_allclose(moments.dct.mean, dct.mean((0, 1)), rtol=1e-9)
    assert cache.moments("open").latent.count == 0


def test_full_precision_is_stored_by_choice(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    cache = build(image_folder, encoder, folder, stored="float32").cache
    rows = np.arange(12)
    expected = np.stack([direct(encoder, image_folder / path) for path in cache.paths])
    assert cache.column("z0", rows).dtype == np.float32
    np.testing.assert_allclose(cache.column("z0", rows), expected, rtol=1e-5, atol=1e-6)


def test_crops_are_views_of_one_image(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", count=2)
    tiny_image(1, (200, 152)).save(root / "ada" / "000.png")
    crops = Preprocessing("crop", SIDE, views=3)
    cache = build(root, encoder, folder, preprocessing=crops).cache
    assert cache.manifest.latent_shape == (3, 4, 8, 8)
    row = cache.paths.tolist().index("ada/000.png")
    found = cache.column("z0", np.array([row]))[0]
    np.testing.assert_allclose(
        found, direct(encoder, root / "ada/000.png", crops), rtol=2e-3, atol=1e-3
    )
    assert not np.allclose(found[0], found[1])
    assert cache.moments("train").dct.count == 3 * len(cache.rows("train"))


def test_closed_and_open_are_two_caches(encoder: Encoder, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "Closed_Set", count=4)
    write_images(tmp_path / "data" / "Open_Set", ("eve",), count=3, first=10)
    closed, unknown = (
        build(tmp_path / "data", encoder, tmp_path / "c" / split, split=split).cache
        for split in ("closed", "open")
    )
    assert closed.classes == ("ada", "bob")
    assert closed.manifest.unknown == ()
    assert set(closed.folds) <= {"train", "val", "test"}
    assert unknown.classes == ()
    assert unknown.manifest.unknown == ("eve",)
    assert unknown.folds.tolist() == ["open"] * 3
    with pytest.raises(DataError, match="no images in the open split"):
        build(tmp_path / "data" / "Closed_Set", encoder, tmp_path / "none", split="open")


def test_one_class_alone_can_be_cached(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    cache = build(write_images(tmp_path / "data", ("ada",)), encoder, folder).cache
    assert cache.classes == ("ada",)
    assert len(cache) == 6


# What is left out


def test_bad_images_are_listed_and_the_rest_is_whole(
    image_folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    before = build(image_folder, encoder, tmp_path / "before" / "all").cache
    sound = (image_folder / "ada" / "000.png").read_bytes()
    (image_folder / "ada" / "empty.png").touch()
    (image_folder / "ada" / "truncated.png").write_bytes(sound[: len(sound) // 2])
    (image_folder / "bob" / "text.png").write_text("not an image")
    (image_folder / "bob" / "notes.xyz").write_text("not an image")
    (image_folder / "cyd").mkdir()
    cache = build(image_folder, encoder, tmp_path / "cache" / "all").cache
    found = reasons(cache)
    assert found["ada/empty.png"] == "the file is empty (0 bytes)"
    assert "truncated" in found["ada/truncated.png"]
    assert "not an image" in found["bob/text.png"]
    assert len(found) == 3
    assert all(found.values())
    assert sorted(cache.paths) == sorted(before.paths)
    assert cache.classes == ("ada", "bob")
    where = {path: row for row, path in enumerate(before.paths.tolist())}
    rows = np.array([where[path] for path in cache.paths.tolist()])
    assert np.array_equal(cache.column("z0", np.arange(12)), before.column("z0", rows))
    total = sum(cache.moments(fold).dct.count for fold in FOLDS)
    assert total == 12


def test_odd_but_sound_images_are_converted(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    image = tiny_image(77, (90, 70))
    image.convert("CMYK").save(image_folder / "ada" / "cmyk.jpg")
    image.convert("P").save(image_folder / "ada" / "palette.gif")
    image.convert("LA").save(image_folder / "bob" / "alpha.png")
    image.save(image_folder / "bob" / "really-a-jpeg.png", format="JPEG")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(image_folder / "bob" / "dot.png")
    Image.new("RGB", (100_000, 1)).save(image_folder / "bob" / "thin.png")
    cache = build(image_folder, encoder, folder).cache
    assert set(reasons(cache)) == {"bob/dot.png", "bob/thin.png"}
    assert "too small: the shorter side needs" in reasons(cache)["bob/dot.png"]
    assert len(cache) == 16


def test_the_same_content_counts_once_and_under_two_labels_not_at_all(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    (image_folder / "ada" / "twin.png").write_bytes((image_folder / "ada" / "000.png").read_bytes())
    (image_folder / "bob" / "claim.png").write_bytes(
        (image_folder / "ada" / "001.png").read_bytes()
    )
    cache = build(image_folder, encoder, folder).cache
    found = reasons(cache)
    assert len(found) == 3
    (twin,) = set(found) & {"ada/twin.png", "ada/000.png"}  # the later in canonical order
    (kept,) = {"ada/twin.png", "ada/000.png"} - {twin}
    assert found[twin] == f"the same content as {kept}"
    assert found["ada/001.png"] == "the same content is labelled bob in bob/claim.png"
    assert found["bob/claim.png"] == "the same content is labelled ada in ada/001.png"
    assert len(set(cache.hashes)) == len(cache) == 11


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_listed(image_folder: Path, encoder: Encoder, folder: Path) -> None:
    (image_folder / "bob").chmod(0)
    try:
        cache = build(image_folder, encoder, folder).cache
    finally:
        (image_folder / "bob").chmod(0o755)
    assert "bob" in reasons(cache)
    assert cache.classes == ("ada",)


def test_a_file_that_vanishes_is_listed(image_folder: Path, encoder: Encoder, folder: Path) -> None:
    index = read_index(image_folder)
    (image_folder / "ada" / "003.png").unlink()
    cache = build_cache(index, encoder, folder, split="all", preprocessing=SMALL).cache
    assert reasons(cache) == {"ada/003.png": "cannot be read (No such file or directory)"}
    assert len(cache) == 11


def test_nothing_usable_is_an_error_that_quotes_the_first_reason(
    encoder: Encoder, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "data" / "ada").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "data" / "ada" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 3 images can be used .*0 bytes"):
        build(tmp_path / "data", encoder, folder)
    with pytest.raises(CacheError, match="no finished cache"):
        Cache.open(folder)


class Overflowing(Encoder):
    """An encoder whose arithmetic overflows on bright images, as half precision may."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        latents = super().encode(pixels).clone()
        latents[pixels.mean((1, 2, 3)) > 0.9] = float("nan")
        return latents


def test_latents_that_are_not_finite_are_left_out(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    Image.new("RGB", (SIDE, SIDE), (255, 255, 255)).save(image_folder / "bob" / "white.png")
    overflowing = Overflowing(encoder.network, encoder.identity, "fp32", "cpu")
    cache = build(image_folder, overflowing, folder).cache
    assert reasons(cache) == {"bob/white.png": "its z0 is not finite in fp32"}
    assert np.isfinite(cache.column("z0", np.arange(12))).all()
    assert np.isfinite(cache.moments("train").latent.m2).all()
    again = build(image_folder, encoder, folder)  # it is remembered
    assert (again.computed, len(again.cache)) == (0, 12)


class Counting(Encoder):
    """An encoder that notes the size of every batch."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches = [*getattr(self, "batches", []), len(pixels)]
        return super().encode(pixels)


def test_a_cpu_encodes_one_view_at_a_time(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    counting = Counting(encoder.network, encoder.identity, "fp32", "cpu")
    build(image_folder, counting, folder, preprocessing=Preprocessing("crop", SIDE, views=3))
    assert set(counting.batches) == {1}


@pytest.mark.parametrize(("side", "expected"), [(64, [8, 4]), (256, [8, 4]), (512, [2] * 6)])
def test_batches_of_a_gpu_shrink_with_the_size_of_views(side: int, expected: list[int]) -> None:
    pixels = np.zeros((side, side, 3), np.uint8)
    requests = [_Request(View(pixels), ViewValues(pixels)) for _ in range(12)]
    assert [len(batch) for batch in _batches(requests, BATCH)] == expected
    assert [len(batch) for batch in _batches(requests, 1)] == [1] * 12


def test_few_large_images_are_loaded_ahead() -> None:
    assert images_ahead(Preprocessing()) == 16
    assert images_ahead(Preprocessing("crop", 2048, views=8)) == 2


# What a second build does


def test_a_second_build_does_nothing(image_folder: Path, encoder: Encoder, folder: Path) -> None:
    first = build(image_folder, encoder, folder)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    second = build(image_folder, encoder, folder)
    assert (second.computed, second.stored) == (0, 12)
    assert not second.changes
    assert second.cache.manifest == first.cache.manifest
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())


def test_added_images_alone_are_computed(
    image_folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folder, scratch = tmp_path / "cache" / "all", tmp_path / "scratch" / "all"
    (image_folder / "bob" / "claim.png").write_bytes(
        (image_folder / "ada" / "001.png").read_bytes()
    )
    build(image_folder, encoder, folder)
    write_images(image_folder, ("ada",), count=3, first=20)
    write_images(image_folder, ("zoe",), count=2)
    write_images(image_folder, ("zoe",), count=1, first=90)
    report = build(image_folder, encoder, folder)
    # zoe's images are ada's first two under another name: no new content.
    assert (report.computed, report.columns) == (4, {"z0": 4})
    assert str(report.changes).startswith("4 added (ada/02")
    fresh = build(image_folder, encoder, scratch).cache
    assert report.cache.manifest.fingerprint == fresh.manifest.fingerprint
    rows = np.arange(len(fresh))
    np.testing.assert_allclose(
        report.cache.column("z0", rows), fresh.column("z0", rows), rtol=1e-3, atol=1e-3
    )


def test_removed_altered_and_relabelled_images_are_told_apart(
    image_folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    before = build(image_folder, encoder, tmp_path / "cache" / "all").cache
    (image_folder / "ada" / "000.png").unlink()
    tiny_image(500).save(image_folder / "ada" / "001.png")
    table = image_folder / "index.csv"
    rows = [
        f"{p},{'ada' if p == 'bob/002.png' else p[:3]}" for p in before.paths if "/000" not in p
    ]
    table.write_text("path,label\n" + "\n".join(rows))
    (image_folder / "bob" / "000.png").unlink()
    moved = read_index(table)
    folds = dict(zip(before.paths.tolist(), before.folds.tolist(), strict=True))
    records = tuple(replace(r, group=Path(r.path).stem, fold=folds[r.path]) for r in moved.records)
    index = DatasetIndex(image_folder, records, (), "made up")
    report = build_cache(index, encoder, before.path, split="all", preprocessing=SMALL)
    assert report.changes.added == ()
    assert sorted(report.changes.removed) == ["ada/000.png", "bob/000.png"]
    assert report.changes.altered == ("ada/001.png",)
    assert report.changes.moved == ("bob/002.png",)
    assert (report.computed, report.stored) == (1, 9)
    assert len(report.cache) == 10
    row = report.cache.paths.tolist().index("bob/002.png")
    assert report.cache.labels[row] == "ada"


def test_a_moved_data_root_is_noted_without_encoding(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    build(image_folder, encoder, folder)
    moved = image_folder.rename(image_folder.with_name("elsewhere"))
    report = build(moved, encoder, folder)
    assert report.computed == 0
    assert report.cache.manifest.data == str(moved)
    (moved / "loose.png").touch()
    assert "loose.png" in reasons(build(moved, encoder, folder).cache)


def test_other_weights_or_preprocessing_are_never_mixed(
    image_folder: Path, encoder: Encoder, folder: Path, tmp_path: Path
) -> None:
    build(image_folder, encoder, folder)
    before = array_bytes(folder.parent)
    other = Encoder.load(str(save(tiny_model(9), tmp_path / "other")))
    crop = Preprocessing("crop", SIDE, 2)
    for given, words in (
        ({"encoder": other}, "autoencoder tiny .* against other"),
        ({"preprocessing": crop}, "name resize against crop; .* views 1 against 2"),
        ({"stored": "float32"}, "stored type float16 against float32"),
    ):
        options: dict[str, Any] = {"encoder": encoder, **given}
        with pytest.raises(CacheStale, match=words + ".*--fresh"):
            build(image_folder, folder=folder, **options)
    assert array_bytes(folder.parent) == before
    report = build(image_folder, other, folder, fresh=True)
    assert report.computed == 12
    assert report.cache.manifest.encoding.autoencoder.name == "other"


def test_reduced_precision_records_its_error(
    image_folder: Path, tiny_folder: Path, folder: Path
) -> None:
    cache = build(image_folder, Encoder.load(str(tiny_folder), "bf16"), folder).cache
    assert 0 < cache.manifest.facts["relative_latent_error"] < 0.05


class Stopping(Encoder):
    """An encoder that is interrupted after a number of views."""

    left = 0

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode(pixels)


def interrupt(root: Path, encoder: Encoder, folder: Path, views: int) -> None:
    stopping = Stopping(encoder.network, encoder.identity, "fp32", "cpu")
    stopping.left = views
    with pytest.raises(KeyboardInterrupt):
        build(root, stopping, folder)


def test_an_interrupted_build_resumes(image_folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    folder, whole = tmp_path / "cache" / "all", tmp_path / "whole" / "all"
    interrupt(image_folder, encoder, folder, 8)
    with pytest.raises(CacheError, match=r"no finished cache; run \(or run again\)"):
        Cache.open(folder)
    report = build(image_folder, encoder, folder)
    assert (report.computed, report.stored) == (4, 8)
    build(image_folder, encoder, whole)
    assert array_bytes(folder.parent) == array_bytes(whole.parent)


def test_builds_of_other_images_that_were_interrupted_are_reused(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    interrupt(image_folder, encoder, folder, 8)
    write_images(image_folder, ("cyd",), count=1, first=50)
    interrupt(image_folder, encoder, folder, 4)
    write_images(image_folder, ("dan",), count=1, first=60)
    report = build(image_folder, encoder, folder)
    assert report.stored == 12
    assert report.computed == 2


def test_images_that_changed_after_an_interruption_are_computed(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    interrupt(image_folder, encoder, folder, 8)
    tiny_image(900).save(image_folder / read_index(image_folder).records[0].path)
    report = build(image_folder, encoder, folder)
    assert (report.computed, report.stored) == (5, 7)


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes({"flip": content, "truncate": content[:-5], "empty": b""}[damage])


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_shard_is_found_and_only_its_images_are_computed_again(
    damage: str, image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    build(image_folder, encoder, folder)
    before = array_bytes(folder.parent)
    spoil(shard_files(folder)[1], damage)
    cache = Cache.open(folder)
    with pytest.raises(CacheCorrupt, match=r"z0-.*: shard 1 is damaged.*--repair"):
        cache.column("z0", np.arange(12))
    assert np.isfinite(cache.column("z0", np.arange(4))).all()
    report = build(image_folder, encoder, folder, repair=True)
    assert (report.computed, report.stored) == (4, 8)
    assert "shard 1 is damaged" in report.repaired[0]
    assert array_bytes(folder.parent) == before


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', "half", "edited"])
def test_a_damaged_manifest_is_refused_and_nothing_is_overwritten(
    damage: str, image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    build(image_folder, encoder, folder)
    manifest, before = folder / "manifest.json", array_bytes(folder.parent)
    text = manifest.read_text()
    edited = {"half": text[: len(text) // 2], "edited": text.replace("resize", "crop")}
    manifest.write_text(edited.get(damage, damage))
    for use in (lambda: Cache.open(folder), lambda: build(image_folder, encoder, folder)):
        with pytest.raises(CacheCorrupt, match=r"manifest\.json: is damaged .*--repair") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert array_bytes(folder.parent) == before
    assert build(image_folder, encoder, folder, repair=True).computed == 0
    assert manifest.read_text() != text  # the facts of the build that computed are lost
    assert Cache.open(folder).manifest.images == 12


def test_two_builds_at_once_are_refused(image_folder: Path, encoder: Encoder, folder: Path) -> None:
    with locked(folder.parent), pytest.raises(CacheError, match="another process is writing here"):
        build(image_folder, encoder, folder)
    assert len(build(image_folder, encoder, folder).cache) == 12


def test_fresh_forgets_what_was_built_and_begun(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    build(image_folder, encoder, folder)
    write_images(image_folder, ("cyd",), count=5, first=70)
    interrupt(image_folder, encoder, folder, 1)
    report = build(image_folder, encoder, folder, fresh=True)
    assert (report.computed, report.stored) == (17, 0)


def test_a_cache_of_an_older_version_is_refused_with_the_command(
    image_folder: Path, encoder: Encoder, folder: Path
) -> None:
    (folder / "latents.zarr").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": 1}')
    for use in (lambda: Cache.open(folder), lambda: build(image_folder, encoder, folder)):
        with pytest.raises(CacheStale, match=rf"older version.*--cache {folder.parent} --fresh`"):
            use()
    assert build(image_folder, encoder, folder, fresh=True).computed == 12
    assert not (folder / "latents.zarr").exists()
