"""Building: what the decoded pixels say of the data, and reading the same data again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import SMALL, write_images

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import DataError
from leakcache.images import decode as decoding
from leakcache.store import one_pass
from leakcache.store.build import BuildReport, build_cache, open_set_builds, own_open_set

TRAINING = ["z0", "degraded_pixel_statistics"]


def build(index: Any, encoder: Encoder, home: Path, **options: Any) -> BuildReport:
    given = {"preprocessing": SMALL, **options}
    return build_cache(index, encoder, home / "closed", **given)


def sentences(report: BuildReport) -> str:
    return "\n".join(finding.sentence for finding in report.findings)


def other_bytes(path: Path, copy: Path, level: int = 0) -> None:
    """The same pixels in a file of other bytes."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).save(copy, compress_level=level)
    assert path.read_bytes() != copy.read_bytes()


def test_equal_pixels_are_one_group_in_one_fold(
    image_folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    for level, name in enumerate(("x", "y", "z")):
        for label in ("ada", "bob"):
            other_bytes(
                image_folder / label / "000.png", image_folder / label / f"{name}.png", level
            )
    report = build(read_index(image_folder), encoder, tmp_path / "c", columns=TRAINING)
    cache = report.cache
    twins = np.isin([Path(path).stem for path in cache.paths], ["000", "x", "y", "z"])
    assert twins.sum() == 8
    assert len(set(cache.groups[twins])) == len(set(cache.folds[twins])) == 1
    assert "6 images repeat the pixels of others" in sentences(report)
    assert report.stored == 0
    # An image that came into the training fold then has the columns of that fold.
    assert cache.has("degraded_pixel_statistics")
    again = build(read_index(image_folder), encoder, tmp_path / "c", columns=TRAINING)
    assert again.computed == 0
    assert again.findings == report.findings
    assert again.cache.manifest == cache.manifest
    assert not again.changes


def test_equal_pixels_in_several_classes_or_given_folds_are_named(
    encoder: Encoder, tmp_path: Path
) -> None:
    for number, fold in enumerate(("train", "val", "test")):
        write_images(tmp_path / "data" / fold, count=2, first=10 * number)
    other_bytes(tmp_path / "data/train/ada/000.png", tmp_path / "data/test/bob/copy.png")
    report = build(read_index(tmp_path / "data"), encoder, tmp_path / "c")
    found = sentences(report)
    assert "equal pixels in several classes" in found
    assert "equal pixels in several folds" in found
    assert "test/bob/copy.png" in found
    assert len(report.cache.rows("test")) == 5


def test_a_class_without_any_usable_image_is_an_error(
    image_folder: Path, encoder: Encoder, tmp_path: Path
) -> None:
    (image_folder / "eve").mkdir()
    for number in range(3):
        (image_folder / "eve" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 3 images of class eve can be used"):
        build(read_index(image_folder), encoder, tmp_path / "c")


def test_a_reason_is_not_kept_when_the_rules_change(
    image_folder: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 2)).save(image_folder / "ada" / "strip.png")
    index = read_index(image_folder)
    strict = build(index, encoder, tmp_path / "c")
    assert dict(strict.cache.manifest.rejects).keys() == {"ada/strip.png"}
    read: list[int] = []
    monkeypatch.setattr(one_pass, "refuse_tiny", lambda size, cut: read.append(1))
    assert build(index, encoder, tmp_path / "c").cache.manifest.rejects
    assert not read
    monkeypatch.setattr(one_pass, "VERSION", decoding.VERSION + 1)
    report = build(index, encoder, tmp_path / "c")
    assert (report.computed, report.cache.manifest.rejects) == (1, ())


def metadata(root: Path) -> Path:
    """A table with a column of labels, and of groups, that options have to name."""
    write_images(root)
    write_images(root, ("eve",), count=3, first=70)
    rows = ["path,maker,prompt,fold"]
    for label in ("ada", "bob"):
        folds = ("train", "train", "train", "val", "test", "test")
        rows += [f"{label}/{n:03d}.png,{label},p {n},{fold}" for n, fold in enumerate(folds)]
    rows += [f"eve/{n:03d}.png,eve,q {n},open" for n in range(70, 73)]
    (root / "my table.csv").write_text("\n".join(rows))
    return root / "my table.csv"


def test_the_own_open_set_of_a_table_is_found(encoder: Encoder, tmp_path: Path) -> None:
    table = metadata(tmp_path / "images")
    index = read_index(table, label="maker", group="prompt")
    closed = build(index, encoder, tmp_path / "c").cache
    opened = own_open_set(closed)
    assert opened is not None
    assert opened.unknown == ("eve",)
    cache = open_set_builds(closed, [])[0].cache
    assert cache.groups.tolist() == ["q 70", "q 71", "q 72"]
    words = shlex.split(closed.command(["z0"]))
    assert words[words.index("--data") + 1] == str(table)
    assert words[words.index("--group") + 1] == "prompt"


def test_data_read_with_a_layout_is_read_again_with_it(encoder: Encoder, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "ada", ("train", "val", "test"), count=2)
    write_images(tmp_path / "data" / "bob", ("train", "val", "test"), count=2, first=30)
    index = read_index(tmp_path / "data", layout="class/split", group="file", seed=3)
    cache = build(index, encoder, tmp_path / "c").cache
    manifest = cache.manifest
    assert manifest.reading == {"seed": 3, "layout": "class/split", "group": "file"}
    again = read_index(Path(manifest.source), **manifest.reading)
    assert again == index
    assert own_open_set(cache) is None
    (tmp_path / "data").rename(tmp_path / "gone")
    assert own_open_set(cache) is None
