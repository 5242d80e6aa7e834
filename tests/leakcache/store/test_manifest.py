"""The manifest: what the fingerprint depends on, and that it is whole or absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.errors import CacheCorrupt, CacheIncomplete
from leakcache.images.decode import Preprocessing
from leakcache.store.manifest import CacheManifest, Encoding, images_hash

AUTOENCODER = AutoencoderIdentity(
    name="one",
    spec="/weights/one",
    source="here",
    kind="AutoencoderKL",
    weights_sha256="a" * 64,
    channels=4,
    scaling_factor=0.18215,
    shift_factor=0.0,
)
ENCODING = Encoding(AUTOENCODER, Preprocessing(), "fp32", "float16")
ROWS = [("0" * 64, "ada", "p1", "train"), ("1" * 64, "bob", "p1", "test")]


def table_of(rows: list[tuple[str, ...]]) -> dict[str, list[Any]]:
    sha256, label, group, fold = (list(column) for column in zip(*rows, strict=True))
    table = {"path": sha256, "label": label, "group": group, "fold": fold, "sha256": sha256}
    return {**table, "bytes": [1] * len(rows)}


def manifest(**changes: Any) -> CacheManifest:
    found = CacheManifest(
        encoding=ENCODING,
        split="closed",
        data="/data/über",
        layout="class folders",
        table=table_of(ROWS),
        rejects=(("ada/×.png", "the file is empty (0 bytes)"),),
        facts={"seconds": 1.5, "relative_latent_error": None},
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"autoencoder": replace(AUTOENCODER, weights_sha256="b" * 64)}, "autoencoder one"),
        ({"autoencoder": replace(AUTOENCODER, scaling_factor=1.0)}, "scaling_factor 0.18215"),
        ({"autoencoder": replace(AUTOENCODER, shift_factor=0.1)}, "shift_factor 0.0 against 0.1"),
        ({"preprocessing": Preprocessing(size=128)}, "size 256 against 128"),
        ({"preprocessing": Preprocessing("crop")}, "name resize against crop"),
        ({"preprocessing": Preprocessing("crop", 256, 2)}, "views 1 against 2"),
        ({"precision": "bf16"}, "precision fp32 against bf16"),
        ({"stored": "float32"}, "stored type float16 against float32"),
    ],
)
def test_what_changes_latents_changes_the_fingerprint_and_is_named(
    changes: dict[str, Any], words: str
) -> None:
    other = replace(ENCODING, **changes)
    assert other.fingerprint != ENCODING.fingerprint
    assert manifest(encoding=other).fingerprint != manifest().fingerprint
    assert words in ENCODING.difference(other)


def test_names_places_and_how_it_went_are_no_part_of_it() -> None:
    moved = replace(AUTOENCODER, name="two", spec="hub/two", source="hub")
    other = replace(ENCODING, autoencoder=moved)
    assert other.fingerprint == ENCODING.fingerprint
    assert ENCODING.difference(other) == ""
    beside = manifest(data="/elsewhere", layout="x", facts={}, rejects=())
    assert beside.fingerprint == manifest().fingerprint


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 2), (1, 3)])
def test_every_image_counts(row: int, column: int) -> None:
    rows = [list(line) for line in ROWS]
    rows[row][column] += "x"
    other = manifest(table=table_of([tuple(line) for line in rows]))
    assert other.images_sha256 != images_hash(ROWS)
    assert other.fingerprint != manifest().fingerprint


def test_the_decoder_counts_but_not_for_what_can_be_scored_together() -> None:
    other = manifest(decoder={"Pillow": "1"})
    assert other.fingerprint != manifest().fingerprint
    assert other.encoding.fingerprint == manifest().encoding.fingerprint


def test_classes_are_the_sorted_closed_labels() -> None:
    assert manifest().classes == ("ada", "bob")
    assert manifest(table=table_of([*ROWS, ("2", "eve", "p", "open")])).unknown == ("eve",)
    assert manifest().latent_shape == (1, 4, 32, 32)


def test_options_are_those_of_the_command() -> None:
    assert ENCODING.options == "--vae /weights/one"
    cut = Preprocessing("crop", 128, 2, canonical=True, canonical_size=320)
    other = Encoding(replace(AUTOENCODER, spec="bundled"), cut, "bf16", "float32")
    assert other.options == (
        "--view crop --size 128 --views 2 --canonical --canonical-size 320 --precision bf16 "
        "--store float32"
    )


def test_fields_cannot_run_into_each_other() -> None:
    assert images_hash([("a", "b", "c", "d")]) != images_hash([("a", 'b", "c', "", "d")])
    assert images_hash([("ab", "c", "", "")]) != images_hash([("a", "bc", "", "")])


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    assert CacheManifest.read(tmp_path) == manifest()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_without_one_the_cache_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(CacheIncomplete, match=f"build --cache {tmp_path}`"):
        CacheManifest.read(tmp_path / "closed")


def test_any_changed_byte_is_refused_in_one_line(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    file = tmp_path / "manifest.json"
    before = file.read_bytes()
    for place in range(len(before)):
        file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        with pytest.raises(CacheCorrupt, match=r"manifest\.json: ") as caught:
            CacheManifest.read(tmp_path)
        assert "\n" not in str(caught.value)
