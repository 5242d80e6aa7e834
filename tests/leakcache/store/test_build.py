"""Building: what is cached, what is left out, and what a second build does again."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from tiny_data import SIDE, SMALL, array_bytes, picture, save, tiny_model, write_pictures

from leakcache.dataset.index import FOLDS, DatasetIndex, read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheError, CacheStale, DataError
from leakcache.images.decode import Preprocessing, decode, preprocess, to_unit_range
from leakcache.images.loader import images_ahead
from leakcache.store import zarr_shards as shards
from leakcache.store.build import BuildReport, build_cache
from leakcache.store.cache import Cache
from leakcache.store.workspace import Workspace


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def build(root: Path, encoder: Encoder, folder: Path, **options: Any) -> BuildReport:
    given = {"split": "all", "preprocessing": SMALL, **options}
    return build_cache(read_index(root), encoder, folder, **given)


def direct(encoder: Encoder, path: Path, preprocessing: Preprocessing = SMALL) -> np.ndarray:
    views = preprocess(decode(path.read_bytes()), preprocessing)
    return encoder.encode(torch.from_numpy(to_unit_range(views))).numpy()


def reasons(cache: Cache) -> dict[str, str]:
    return dict(cache.manifest.rejects)


def shard_files(folder: Path, array: str = "z0") -> list[Path]:
    return sorted(p for p in (folder / "latents.zarr" / array / "c").rglob("*") if p.is_file())


# What is cached


def test_holds_what_encoding_each_image_gives(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    index = read_index(pictures)
    report = build(pictures, encoder, folder)
    cache = report.cache
    assert (report.encoded, report.reused, report.resumed) == (12, 0, 0)
    assert len(cache) == 12
    assert cache.manifest.latent_shape == (1, 4, SIDE // 8, SIDE // 8)
    assert cache.paths.tolist() == [record.path for record in index.records]
    assert cache.labels.tolist() == [record.label for record in index.records]
    assert cache.groups.tolist() == [record.group for record in index.records]
    assert cache.folds.tolist() == [record.fold for record in index.records]
    rows = np.arange(12)[::-1]  # across shards and not in their order
    expected = np.stack([direct(encoder, pictures / cache.paths[row]) for row in rows])
    assert cache.column("z0", rows).dtype == np.float16
    np.testing.assert_allclose(cache.column("z0", rows), expected, rtol=2e-3, atol=1e-3)
    coefficients = scipy.fft.dctn(
        cache.column("z0", rows).astype(float), axes=(-2, -1), norm="ortho"
    )
    np.testing.assert_allclose(cache.column("dct_low", rows), coefficients, rtol=2e-3, atol=2e-3)
    sizes = [(pictures / path).stat().st_size for path in cache.paths]
    assert cache.sizes.tolist() == sizes


def test_rows_are_in_canonical_order_and_folds_are_found(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    cache = build(pictures, encoder, folder).cache
    columns = zip(cache.folds, cache.labels, cache.paths, strict=True)
    key = [(FOLDS.index(fold), label, path) for fold, label, path in columns]
    assert key == sorted(key)
    found = np.concatenate([cache.rows(fold) for fold in FOLDS])
    assert found.tolist() == list(range(12))
    assert len(cache.rows("train")) == 6


def test_moments_are_those_of_the_stored_latents(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    cache = build(pictures, encoder, folder).cache
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


def test_full_precision_is_stored_by_choice(pictures: Path, encoder: Encoder, folder: Path) -> None:
    cache = build(pictures, encoder, folder, stored="float32").cache
    rows = np.arange(12)
    expected = np.stack([direct(encoder, pictures / path) for path in cache.paths])
    assert cache.column("z0", rows).dtype == np.float32
    np.testing.assert_allclose(cache.column("z0", rows), expected, rtol=1e-5, atol=1e-6)


def test_crops_are_views_of_one_image(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "data", count=2)
    picture(1, (200, 152)).save(root / "ada" / "000.png")
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
    write_pictures(tmp_path / "data" / "Closed_Set", count=4)
    write_pictures(tmp_path / "data" / "Open_Set", ("eve",), count=3, first=10)
    closed, unknown = (
        build(tmp_path / "data", encoder, tmp_path / split, split=split).cache
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
    cache = build(write_pictures(tmp_path / "data", ("ada",)), encoder, folder).cache
    assert cache.classes == ("ada",)
    assert len(cache) == 6


# What is left out


def test_bad_images_are_listed_and_the_rest_is_whole(
    pictures: Path, encoder: Encoder, tmp_path: Path
) -> None:
    before = build(pictures, encoder, tmp_path / "before").cache
    sound = (pictures / "ada" / "000.png").read_bytes()
    (pictures / "ada" / "empty.png").touch()
    (pictures / "ada" / "truncated.png").write_bytes(sound[: len(sound) // 2])
    (pictures / "bob" / "text.png").write_text("not an image")
    (pictures / "bob" / "notes.xyz").write_text("not an image")
    (pictures / "cyd").mkdir()
    cache = build(pictures, encoder, tmp_path / "cache").cache
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
    # Refused rows lie in the arrays as zeros and are in no statistics.
    total = sum(cache.moments(fold).dct.count for fold in FOLDS)
    assert total == 12


def test_odd_but_sound_images_are_converted(pictures: Path, encoder: Encoder, folder: Path) -> None:
    image = picture(77, (90, 70))
    image.convert("CMYK").save(pictures / "ada" / "cmyk.jpg")
    image.convert("P").save(pictures / "ada" / "palette.gif")
    image.convert("LA").save(pictures / "bob" / "alpha.png")
    image.save(pictures / "bob" / "really-a-jpeg.png", format="JPEG")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(pictures / "bob" / "dot.png")
    Image.new("RGB", (100_000, 1)).save(pictures / "bob" / "thin.png")
    cache = build(pictures, encoder, folder).cache
    assert set(reasons(cache)) == {"bob/dot.png", "bob/thin.png"}
    assert "too small: the shorter side needs" in reasons(cache)["bob/dot.png"]
    assert len(cache) == 16


def test_the_same_content_counts_once_and_under_two_labels_not_at_all(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    (pictures / "ada" / "twin.png").write_bytes((pictures / "ada" / "000.png").read_bytes())
    (pictures / "bob" / "claim.png").write_bytes((pictures / "ada" / "001.png").read_bytes())
    cache = build(pictures, encoder, folder).cache
    found = reasons(cache)
    assert len(found) == 3
    (twin,) = set(found) & {"ada/twin.png", "ada/000.png"}  # the later in canonical order
    (kept,) = {"ada/twin.png", "ada/000.png"} - {twin}
    assert found[twin] == f"the same content as {kept}"
    assert found["ada/001.png"] == "the same content is labelled bob in bob/claim.png"
    assert found["bob/claim.png"] == "the same content is labelled ada in ada/001.png"
    assert len(set(cache.hashes)) == len(cache) == 11


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_listed(pictures: Path, encoder: Encoder, folder: Path) -> None:
    (pictures / "bob").chmod(0)
    try:
        cache = build(pictures, encoder, folder).cache
    finally:
        (pictures / "bob").chmod(0o755)
    assert "bob" in reasons(cache)
    assert cache.classes == ("ada",)


def test_a_file_that_vanishes_is_listed(pictures: Path, encoder: Encoder, folder: Path) -> None:
    index = read_index(pictures)
    (pictures / "ada" / "003.png").unlink()
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
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    Image.new("RGB", (SIDE, SIDE), (255, 255, 255)).save(pictures / "bob" / "white.png")
    overflowing = Overflowing(encoder._network, encoder.identity, "fp32", "cpu")
    cache = build(pictures, overflowing, folder).cache
    assert reasons(cache) == {"bob/white.png": "the encoder gave latents that are not finite"}
    assert np.isfinite(cache.column("z0", np.arange(12))).all()
    assert np.isfinite(cache.moments("train").latent.m2).all()
    assert all(np.isfinite(shards.ShardArrays.open(folder).read(s)).all() for s in range(4))


class Counting(Encoder):
    """An encoder that notes the size of every batch."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches = [*getattr(self, "batches", []), len(pixels)]
        return super().encode(pixels)


@pytest.mark.parametrize(
    ("preprocessing", "batches"),
    [
        (SMALL, [8, 4]),
        (Preprocessing("crop", SIDE, views=3), [6] * 6),
        (Preprocessing(size=512), [2] * 6),
        (Preprocessing(size=768), [1] * 12),
    ],
)
def test_batches_shrink_with_the_size_of_views(
    preprocessing: Preprocessing,
    batches: list[int],
    pictures: Path,
    encoder: Encoder,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "SHARD", 16)
    for path in pictures.glob("*/*.png"):
        Image.open(path).resize((96, 96)).save(path)
    counting = Counting(encoder._network, encoder.identity, "fp32", "cpu")
    build(pictures, counting, folder, preprocessing=preprocessing)
    assert counting.batches == batches


def test_few_large_images_are_loaded_ahead() -> None:
    assert images_ahead(Preprocessing()) == 32
    assert images_ahead(Preprocessing("crop", 2048, views=8)) == 2


# What a second build does


def test_a_second_build_does_nothing(pictures: Path, encoder: Encoder, folder: Path) -> None:
    first = build(pictures, encoder, folder)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    second = build(pictures, encoder, folder)
    assert (second.encoded, second.reused, second.resumed) == (0, 0, 0)
    assert not second.changes
    assert second.cache.manifest == first.cache.manifest
    del written[folder / ".lock"]
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())


def test_added_images_alone_are_encoded(pictures: Path, encoder: Encoder, tmp_path: Path) -> None:
    folder, scratch = tmp_path / "cache", tmp_path / "scratch"
    (pictures / "bob" / "claim.png").write_bytes((pictures / "ada" / "001.png").read_bytes())
    build(pictures, encoder, folder)
    write_pictures(pictures, ("ada",), count=3, first=20)
    write_pictures(pictures, ("zoe",), count=2)
    report = build(pictures, encoder, folder)
    # zoe's pictures are ada's first two over again under another name: no new content.
    assert (report.encoded, report.reused) == (3, 15)
    assert str(report.changes).startswith("5 added (ada/02")
    assert array_bytes(folder) == array_bytes(build(pictures, encoder, scratch).cache.path)
    assert report.cache.manifest.fingerprint == Cache.open(scratch).manifest.fingerprint


def test_removed_altered_and_relabelled_images_are_told_apart(
    pictures: Path, encoder: Encoder, tmp_path: Path
) -> None:
    before = build(pictures, encoder, tmp_path / "cache").cache
    (pictures / "ada" / "000.png").unlink()
    picture(500).save(pictures / "ada" / "001.png")
    table = pictures / "index.csv"
    rows = [
        f"{p},{'ada' if p == 'bob/002.png' else p[:3]}" for p in before.paths if "/000" not in p
    ]
    table.write_text("path,label\n" + "\n".join(rows))
    (pictures / "bob" / "000.png").unlink()
    moved = read_index(table)
    folds = dict(zip(before.paths.tolist(), before.folds.tolist(), strict=True))
    records = tuple(replace(r, group=Path(r.path).stem, fold=folds[r.path]) for r in moved.records)
    index = DatasetIndex(pictures, records, (), "made up")
    report = build_cache(index, encoder, tmp_path / "cache", split="all", preprocessing=SMALL)
    assert report.changes.added == ()
    assert sorted(report.changes.removed) == ["ada/000.png", "bob/000.png"]
    assert report.changes.altered == ("ada/001.png",)
    assert report.changes.moved == ("bob/002.png",)
    assert (report.encoded, report.reused) == (1, 9)
    assert len(report.cache) == 10
    row = report.cache.paths.tolist().index("bob/002.png")
    assert report.cache.labels[row] == "ada"


def test_a_moved_data_root_is_noted_without_encoding(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    moved = pictures.rename(pictures.with_name("elsewhere"))
    report = build(moved, encoder, folder)
    assert report.encoded == 0
    assert report.cache.manifest.data == str(moved)
    (moved / "loose.png").touch()
    assert "loose.png" in reasons(build(moved, encoder, folder).cache)


def test_other_weights_or_preprocessing_are_never_mixed(
    pictures: Path, encoder: Encoder, folder: Path, tmp_path: Path
) -> None:
    build(pictures, encoder, folder)
    before = array_bytes(folder)
    other = Encoder.load(str(save(tiny_model(9), tmp_path / "other")))
    crop = Preprocessing("crop", SIDE, 2)
    for given, words in (
        ({"encoder": other}, "autoencoder tiny .* against other"),
        ({"preprocessing": crop}, "name resize against crop; .* views 1 against 2"),
        ({"stored": "float32"}, "stored type float16 against float32"),
    ):
        options: dict[str, Any] = {"encoder": encoder, **given}
        with pytest.raises(CacheStale, match=words + ".*--fresh"):
            build(pictures, folder=folder, **options)
    assert array_bytes(folder) == before
    report = build(pictures, other, folder, fresh=True)
    assert report.encoded == 12
    assert report.cache.manifest.encoding.autoencoder.name == "other"


def test_reduced_precision_records_its_error(
    pictures: Path, tiny_folder: Path, folder: Path
) -> None:
    cache = build(pictures, Encoder.load(str(tiny_folder), "bf16"), folder).cache
    assert 0 < cache.manifest.facts["relative_latent_error"] < 0.05


class Stopping(Encoder):
    """An encoder that is interrupted after a number of batches."""

    left = 0

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode(pixels)


def interrupt(root: Path, encoder: Encoder, folder: Path, batches: int) -> None:
    stopping = Stopping(encoder._network, encoder.identity, "fp32", "cpu")
    stopping.left = batches
    with pytest.raises(KeyboardInterrupt):
        build(root, stopping, folder)


def test_an_interrupted_build_resumes(pictures: Path, encoder: Encoder, tmp_path: Path) -> None:
    folder, whole = tmp_path / "cache", tmp_path / "whole"
    interrupt(pictures, encoder, folder, 2)
    with pytest.raises(CacheError, match=r"no finished cache; run \(or run again\)"):
        Cache.open(folder)
    report = build(pictures, encoder, folder)
    assert (report.encoded, report.resumed) == (4, 8)
    assert array_bytes(folder) == array_bytes(build(pictures, encoder, whole).cache.path)
    assert not (folder / "building").exists()


def test_builds_of_other_images_that_were_interrupted_are_reused(
    pictures: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    interrupt(pictures, encoder, folder, 2)
    write_pictures(pictures, ("cyd",), count=1, first=50)
    interrupt(pictures, encoder, folder, 1)
    write_pictures(pictures, ("dan",), count=1, first=60)
    report = build(pictures, encoder, folder)
    # Eight of the first build, and one that only the second encoded.
    assert (report.encoded, report.reused) == (5, 9)
    whole = build(pictures, encoder, tmp_path / "whole").cache.path
    assert array_bytes(folder) == array_bytes(whole)
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "latents.zarr", "manifest.json"]


def test_an_interrupted_build_of_other_weights_is_not_touched(
    pictures: Path, encoder: Encoder, folder: Path, tmp_path: Path
) -> None:
    interrupt(pictures, encoder, folder, 2)
    other = Encoder.load(str(save(tiny_model(9), tmp_path / "other")))
    with pytest.raises(CacheStale, match=r"unfinished build \(tiny, .*--fresh"):
        build(pictures, other, folder)
    # Set aside, and its successor never begun: still not taken for the other weights' own.
    (folder / "superseded").mkdir()
    (folder / "building").rename(folder / "superseded" / "0")
    assert build(pictures, other, folder).encoded == 12


def test_a_shard_whose_images_changed_meanwhile_is_made_again(
    pictures: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    interrupt(pictures, encoder, folder, 2)
    picture(900).save(pictures / read_index(pictures).records[0].path)
    report = build(pictures, encoder, folder)
    assert (report.encoded, report.resumed) == (8, 4)
    assert array_bytes(folder) == array_bytes(build(pictures, encoder, tmp_path / "w").cache.path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
@pytest.mark.parametrize("array", ["z0", "dct_low"])
def test_a_shard_damaged_during_a_build_is_made_again(
    damage: str, array: str, pictures: Path, encoder: Encoder, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    interrupt(pictures, encoder, folder, 2)
    spoil(shard_files(folder / "building", array)[0], damage)
    report = build(pictures, encoder, folder)
    assert (report.encoded, report.resumed) == (8, 4)
    assert array_bytes(folder) == array_bytes(build(pictures, encoder, tmp_path / "w").cache.path)


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes({"flip": content, "truncate": content[:-5], "empty": b""}[damage])


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_shard_is_found_and_only_its_images_are_encoded_again(
    damage: str, pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    before = array_bytes(folder)
    spoil(shard_files(folder)[1], damage)
    cache = Cache.open(folder)
    with pytest.raises(CacheCorrupt, match=r"shard 1 of z0 is damaged.*--repair"):
        cache.column("z0", np.arange(12))
    assert np.isfinite(cache.column("z0", np.arange(4))).all()
    report = build(pictures, encoder, folder, repair=True)
    assert (report.encoded, report.reused) == (4, 8)
    assert array_bytes(folder) == before


def test_damaged_coefficients_are_computed_again_without_encoding(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    before = array_bytes(folder)
    spoil(shard_files(folder, "dct_low")[2], "flip")
    with pytest.raises(CacheCorrupt, match="shard 2 of dct_low"):
        Cache.open(folder).column("dct_low", np.arange(12))
    assert build(pictures, encoder, folder, repair=True).encoded == 0
    assert array_bytes(folder) == before


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', "half", "edited"])
def test_a_damaged_manifest_is_refused_and_nothing_is_overwritten(
    damage: str, pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    manifest, before = folder / "manifest.json", array_bytes(folder)
    text = manifest.read_text()
    edited = {"half": text[: len(text) // 2], "edited": text.replace("resize", "crop")}
    manifest.write_text(edited.get(damage, damage))
    for use in (lambda: Cache.open(folder), lambda: build(pictures, encoder, folder)):
        with pytest.raises(CacheCorrupt, match=r"manifest\.json"):
            use()
    assert array_bytes(folder) == before
    assert build(pictures, encoder, folder, fresh=True).encoded == 12


@pytest.mark.parametrize("damage", ["flip", "empty", "remove"])
@pytest.mark.parametrize("column", ["label", "accepted", "bytes"])
def test_a_damaged_column_is_refused(
    damage: str, column: str, pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    spoil(shard_files(folder, column)[0], damage)
    with pytest.raises(CacheCorrupt, match=f"{column} is damaged"):
        Cache.open(folder)


@pytest.mark.parametrize("name", ["z0/zarr.json", "label/zarr.json", "zarr.json", "z0"])
def test_lost_metadata_are_refused_in_one_line(
    name: str, pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    path = folder / "latents.zarr" / name
    if path.is_dir():
        path.rename(folder / "gone")
    else:
        path.write_text("{")
    with pytest.raises(CacheCorrupt, match="--fresh") as caught:
        Cache.open(folder)
    assert "\n" not in str(caught.value)


def test_damaged_moments_are_refused_and_repaired(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    before = array_bytes(folder)
    spoil(shard_files(folder, "moments/latent_mean")[0], "flip")
    with pytest.raises(CacheCorrupt, match="moments/latent_mean is damaged"):
        Cache.open(folder).moments()
    assert build(pictures, encoder, folder, repair=True).encoded == 0
    assert array_bytes(folder) == before


def test_two_builds_at_once_are_refused(pictures: Path, encoder: Encoder, folder: Path) -> None:
    with Workspace(folder).locked():
        with pytest.raises(CacheError, match="another build is writing here"):
            build(pictures, encoder, folder)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released, even after a kill
    assert len(build(pictures, encoder, folder).cache) == 12


def test_fresh_forgets_what_was_built_and_begun(
    pictures: Path, encoder: Encoder, folder: Path
) -> None:
    build(pictures, encoder, folder)
    write_pictures(pictures, ("cyd",), count=5, first=70)
    interrupt(pictures, encoder, folder, 1)
    report = build(pictures, encoder, folder, fresh=True)
    assert (report.encoded, report.reused, report.resumed) == (17, 0, 0)
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "latents.zarr", "manifest.json"]
