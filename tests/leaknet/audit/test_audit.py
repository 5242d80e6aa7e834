"""Audit of data sets with an injected leak: it is found, named, and cured by canonicalisation."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from audit_images import plain, random_image, saved
from PIL import Image

from leakcache.dataset.index import read_index
from leakcache.errors import DataError
from leakcache.images.decode import decode
from leakcache.images.preprocess import canonical_bytes
from leaknet.audit.audit import audit
from leaknet.audit.findings import LEVELS


def wider(label, number, image):
    """Class c is 16 pixels wider."""
    return plain(label, number, image.resize((64, 48)) if label == "c" else image)


def tinted(label, number, image):
    """Class c is redder."""
    pixels = np.asarray(image).astype(int)
    red = np.clip(pixels + [60, 0, 0] * np.array(label == "c"), 0, 255)
    return plain(label, number, Image.fromarray(red.astype(np.uint8)))


def webp(label, number, image):
    return f"{number:03}.webp", saved(image, "WEBP", quality=80)


def of(found, control):
    return [finding for finding in found.findings if finding.control == control]


def levels(found):
    return {finding.control: finding.level for finding in found.findings}


@pytest.fixture(scope="module")
def clean(write_data):
    """Three generators, the same prompts, no leak."""
    return write_data("a b c", 24)


@pytest.fixture(scope="module")
def unknown(write_data):
    return write_data("x", 24, webp, seed=50_000)


@pytest.fixture(scope="module")
def audited(clean, unknown):
    """The clean data with an open set of another format, as files and canonically."""
    index, open_index = read_index(clean), read_index(unknown, open_set=True)
    return {side: audit(index, [open_index], canonical=side) for side in (None, 64)}


def test_clean_data_have_no_leak(audited):
    found = audited[None]
    assert found.metadata.facts == {}
    assert found.metadata.top1.value == pytest.approx(1 / 3)
    assert found.metadata.macro_auc.value == 0.5
    assert not found.thumbnail.beyond_chance
    assert levels(found)["metadata"] == "note"
    assert levels(found)["thumbnail"] in ("note", "unsure")
    assert found.exact == found.near == ()


def test_another_format_of_the_open_set_is_found_and_canonicalising_cures_it(audited):
    (finding,) = of(audited[None], "open metadata")
    assert finding.level == "severe"
    assert finding.sentence.startswith("File format (or ")
    assert "alone separates the open set at AUROC 1.00" in finding.sentence
    assert "use --canonical before you trust any other score" in finding.sentence
    assert audited[None].open_metadata.auroc.value == 1
    canonical = audited[64]
    assert canonical.open_metadata.auroc.value == 0.5
    assert canonical.open_metadata.facts == {}
    assert of(canonical, "open metadata")[0].level == "note"


def test_the_open_thumbnail_of_equal_content_is_near_chance(audited):
    for found in audited.values():
        assert found.open_thumbnail.auroc.value < 0.75


def test_findings_are_sorted_and_every_one_is_a_sentence(audited):
    for found in audited.values():
        order = [LEVELS.index(finding.level) for finding in found.findings]
        assert order == sorted(order)
        for finding in found.findings:
            assert finding.sentence[0].isupper() or finding.sentence[0].isdigit()
            assert finding.sentence.endswith(".")
            assert "\n" not in finding.sentence


def test_the_dict_is_short_without_paths(audited):
    whole, short = audited[None].as_dict(), audited[None].as_dict(paths=False)
    assert set(whole) - set(short) == {"unreadable"}
    assert "sets" in whole["duplicates"]["exact"]
    assert "sets" not in short["duplicates"]["exact"]
    assert short["images"] == {"closed": 72, "open": 24, "unreadable": 0}
    assert set(short["metadata"]) == {
        "top1", "macro_auc", "interval", "per_class_auc", "chance", "images", "protocol",
        "shuffled", "facts",
    }  # fmt: skip
    assert set(short["open"]) == {"metadata", "thumbnail"}


def test_a_size_that_identifies_one_generator_is_named(write_data):
    root = write_data("a b c", 24, wider)
    found = audit(read_index(root))
    (finding,) = of(found, "metadata")
    assert finding.level == "severe"
    assert finding.sentence.startswith("Width (or aspect ratio")
    assert "best for c (AUC 1.00)" in finding.sentence
    assert found.metadata.per_class_auc["c"] == 1
    assert next(iter(found.metadata.facts)) == "width"
    assert found.metadata.facts["width"].top1 == pytest.approx(2 / 3, abs=0.1)
    # Shuffled labels stay at chance though the size varies.
    shuffled = np.mean([s.macro_auc for s in found.metadata.shuffled])
    assert shuffled == pytest.approx(0.5, abs=0.12)


def test_a_tint_is_found_in_the_thumbnail_and_stays_after_canonicalisation(write_data):
    found = audit(read_index(write_data("a b c", 24, tinted)), canonical=64)
    assert found.metadata.macro_auc.value == 0.5
    assert found.thumbnail.beyond_chance
    assert of(found, "thumbnail")[0].level in ("warning", "severe")
    assert found.thumbnail.per_class_auc["c"] > 0.9


def test_copies_are_listed_with_what_they_cross(clean, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(clean, root)
    (root / "Split.json").write_text(
        '{"train": {"a": ["000.png", "001.png", "x.png"], "b": ["000.png", "001.png"]},'
        ' "test": {"a": ["002.png", "003.png"], "b": ["002.png", "003.png", "y.png"]}}'
    )
    shutil.rmtree(root / "c")
    shutil.copy(root / "b" / "002.png", root / "a" / "x.png")  # other label, other fold
    (root / "b" / "y.png").write_bytes(saved(random_image(0), "JPEG"))  # same image as a/000
    (root / "b" / "003.png").write_bytes(saved(random_image(3), "JPEG"))  # same as a/003
    unknown = tmp_path / "unknown" / "z"
    unknown.mkdir(parents=True)
    shutil.copy(root / "a" / "001.png", unknown / "known.png")
    (unknown / "new.png").write_bytes(saved(random_image(77), "PNG"))
    (unknown / "newer.png").write_bytes(saved(random_image(78), "PNG"))
    found = audit(read_index(root), [read_index(unknown.parent, open_set=True)])
    exact = {tuple(found.observations.paths[list(s.rows)]): s for s in found.exact}
    assert exact.keys() == {("a/x.png", "b/002.png"), ("a/001.png", "unknown/z/known.png")}
    assert exact["a/001.png", "unknown/z/known.png"].crosses_sets
    assert exact["a/x.png", "b/002.png"].crosses_labels
    assert exact["a/x.png", "b/002.png"].crosses_folds
    near = {tuple(found.observations.paths[list(s.rows)]): s for s in found.near}
    assert near.keys() == {("a/000.png", "b/y.png"), ("a/003.png", "b/003.png")}
    sentences = [finding.sentence for finding in of(found, "duplicates")]
    assert (
        "1 set of equal files (a/001.png = unknown/z/known.png) in both closed and open set: "
        "remove them from the open set." in sentences
    )
    assert any("(a/x.png = b/002.png) with different labels" in s for s in sentences)
    assert any("(a/000.png = b/y.png) with different labels" in s for s in sentences)
    assert any("(a/003.png = b/003.png) within one prompt group" in s for s in sentences)
    counts = found.as_dict()["duplicates"]
    assert counts["exact"]["count"] == 2
    assert counts["exact"]["closed_and_open"] == 1
    assert {"paths", "folds", "labels", "groups"} == set(counts["near"]["sets"][0])


def test_groups_across_folds_and_uneven_classes_are_reported(clean):
    index = read_index(clean)
    moved = {"train": "test", "test": "train", "val": "val"}
    records = tuple(
        replace(r, fold=moved[r.fold]) if r.label == "a" else r
        for r in index.records
        if r.label != "b" or r.group < "006" or r.fold == "val"
    )
    found = audit(replace(index, records=records))
    assert levels(found)["groups"] == "severe"
    assert f"{len(found.index.crossing_groups)} prompt groups" in of(found, "groups")[0].sentence
    sentences = " ".join(finding.sentence for finding in of(found, "classes"))
    assert "fewer than 10 training images" in sentences


def test_blank_images_unreadable_ones_and_a_class_of_one_image_are_named(clean, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(clean, root)
    for label in "ab":
        (root / label / "000.png").write_bytes(saved(Image.new("RGB", (48, 48)), "PNG"))
    (root / "c" / "001.png").write_bytes(b"")
    (root / "c" / "002.png").write_bytes((root / "c" / "003.png").read_bytes()[:900])
    for file in sorted((root / "c").iterdir())[3:]:
        file.unlink()
    found = audit(read_index(root))
    assert "2 images of one colour (a/000.png, b/000.png)" in of(found, "blank images")[0].sentence
    assert [s.crosses_labels for s in found.exact] == [True]
    assert not of(found, "duplicates")
    unreadable = {reject.path: reject.reason for reject in found.observations.unreadable}
    assert unreadable.keys() == {"c/001.png", "c/002.png"}
    assert "2 files cannot be read" in of(found, "unreadable")[0].sentence
    assert "c/001.png: the file is empty (0 bytes)" in of(found, "unreadable")[0].sentence
    assert found.metadata.per_class_auc.keys() == {"a", "b"}
    sentence = "1 generator with images of a single prompt (c): excluded from the controls"
    assert any(finding.sentence.startswith(sentence) for finding in of(found, "classes"))


def test_one_class_or_one_prompt_cannot_be_evaluated(clean, tmp_path):
    one = tmp_path / "one"
    shutil.copytree(clean / "a", one / "a")
    found = audit(read_index(one))
    assert found.metadata is found.thumbnail is None
    assert levels(found)["metadata"] == "unsure"
    assert levels(found)["classes"] == "severe"
    index = read_index(clean)
    single = replace(index, records=tuple(r for r in index.records if r.group == "000"))
    assert audit(single).metadata is None
    with pytest.raises(DataError):
        audit(read_index(tmp_path / "nothing"))


def test_traces_of_native_size_give_a_warning_on_the_canonical_track(write_data):
    def upscaled(label, number, image):
        return plain(label, number, image.resize((96, 96)) if label == "b" else image)

    index = read_index(write_data("a b", 12, upscaled))
    (finding,) = of(audit(index, canonical=64), "native size")
    assert "48 px for some generators and 96 px for others" in finding.sentence
    assert "--canonical-size 64" in finding.sentence


@pytest.fixture(scope="module")
def originals(shared):
    """Whole files of eight generators: 512, 768 or 1024 pixels, by generator."""
    return read_index(shared / "bench" / "gallery8-original")


def test_the_size_of_real_files_is_found(originals):
    found = audit(originals)
    (finding,) = of(found, "metadata")
    assert finding.level == "severe"
    assert finding.sentence.startswith("Width (or height) alone identifies the generator")
    assert found.metadata.per_class_auc["sd-2.1"] == 1
    assert found.metadata.macro_auc.low > 0.75


def test_canonicalised_real_files_have_no_leak(originals, tmp_path):
    for record in originals.records:
        target = tmp_path / record.path
        target.parent.mkdir(exist_ok=True)
        image = decode((originals.root / record.path).read_bytes())
        target.write_bytes(canonical_bytes(image))
    found = audit(read_index(tmp_path))
    # Their length alone varies, which depends on nothing but the pixels.
    assert found.metadata.facts.keys() == {"bytes", "bytes_per_pixel"}
    assert found.metadata.macro_auc.value < 0.65
    assert found.metadata.shuffled


def test_the_format_of_a_real_open_set_is_found(shared):
    index = read_index(shared / "bench" / "gallery8")
    chosen = sorted({record.group for record in index.records})[:8]
    index = replace(index, records=tuple(r for r in index.records if r.group in chosen))
    unknown = read_index(shared / "bench" / "open", open_set=True)
    found = audit(index, [unknown])
    (finding,) = of(found, "open metadata")
    assert finding.level == "severe"
    assert finding.sentence.startswith("File format")
    assert found.open_metadata.auroc.value == 1
    assert set(found.open_metadata.generators) == {"dalle-mini", "disco-diffusion"}
